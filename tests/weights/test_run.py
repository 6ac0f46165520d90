"""Imported weights as runs, as the start of runs, and the classes they are for."""

import json
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from configs import demo, mask_rcnn
from jaxseg import weights
from jaxseg.data import sources
from jaxseg.data.source import Category
from jaxseg.training import checkpoints, init_from, workdir
from jaxseg.weights import categories, classes, convert, files, run, start
from jaxseg.weights.coco_categories import COCO80, TORCHVISION90
from tests.weights import foreign

ROOT = pathlib.Path(__file__).parents[2]
MODEL = "maskrcnn_resnet18_fpn"
NAMES = ("ant", "bee", "cat", "dog", "eel")


def command(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


SMALL = {  # makes configs/mask_rcnn.py:r18,coco the config of MODEL, but for the number of classes
    **{"fpn.channels": 32, "rpn.channels": 32, "mask_head.channels": 32},
    **{"backbone.width": 8, "box_head.fc_dim": 128, "num_classes": 0},
}


def test_the_command_writes_a_run_and_the_file_comes_back(tmp_path):
    source, names = tmp_path / "model.safetensors", tmp_path / "names.json"
    state_dict = foreign.torchvision(MODEL)
    weights.save_safetensors(source, state_dict)
    names.write_text(json.dumps([dict(id=i, name=n) for i, n in enumerate(NAMES, 3)]))
    arguments = [
        "--config=configs/mask_rcnn.py:r18,coco",
        *(f"--config.model.{key}={value}" for key, value in SMALL.items()),
        f"--workdir={tmp_path / 'run'}",
        f"--config.checkpoints={tmp_path / 'disk'}",
    ]
    done = command("jaxseg.weights", source, *arguments, f"--categories={names}")
    assert done.returncode == 0, done.stderr
    assert "used     142 of the file's 142 arrays" in done.stdout
    assert "classes  5: ant, bee, cat, dog, eel" in done.stdout

    config, found, variables, step = checkpoints.restore_for_eval(tmp_path / "run")
    assert set(os.listdir(tmp_path / "disk")) == {"0", "checkpoints.json"}
    assert step == 0 and config.model.num_classes == 5
    assert found == tuple(Category(i, n) for i, n in enumerate(NAMES, 3))
    imported = weights.from_torchvision(state_dict, foreign.config(MODEL))
    wanted = convert.flat({"params": imported.params, "batch_stats": imported.batch_stats})
    ours = convert.flat(variables)
    assert set(ours) == set(wanted)
    for path, value in wanted.items():
        np.testing.assert_array_equal(ours[path], value)
    report = json.loads((tmp_path / "run" / run.REPORT_FILE).read_text())
    assert len(report["used"]) == 142 and report["source"] == str(source)

    back = weights.to_torchvision(
        variables["params"], variables["batch_stats"], config, rest=run.rest(tmp_path / "run")
    )
    assert {n: a.tobytes() for n, a in back.items()} == {
        n: a.tobytes() for n, a in state_dict.items()
    }


def test_a_mistake_on_the_command_line_is_one_message(tmp_path):
    flags = [f"--workdir={tmp_path}", "--config=configs/mask_rcnn.py"]
    done = command("jaxseg.weights", "nowhere.pth", *flags)
    assert (done.returncode, done.stderr) == (2, "jaxseg.weights: There is no file nowhere.pth.\n")


def test_a_folder_with_a_run_is_left_alone(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"There is a run in .* already. Choose another --workdir"):
        run.check_new(tmp_path)


@pytest.mark.parametrize(
    "source, wanted",
    [
        ("hf://org/name/model.safetensors", True),
        ("https://there/model.pth", True),
        ("runs/model.pth", True),
        ("~/R-50.pkl", True),
        ("runs/other", False),
    ],
)
def test_files_are_told_from_work_directories(source, wanted):
    assert start.is_file(source) == wanted


def test_a_folder_and_a_file_of_any_name(tmp_path):
    (tmp_path / "best.pth").mkdir()
    (tmp_path / "weights").write_bytes(b"x")
    assert not start.is_file(str(tmp_path / "best.pth"))
    assert start.is_file(str(tmp_path / "weights"))


@pytest.mark.parametrize(
    "meta, names, taken",
    [
        ({"CLASSES": NAMES}, NAMES, True),
        ({"dataset_meta": {"classes": list(NAMES)}}, NAMES, True),
        ({"CLASSES": NAMES}, NAMES[::-1], False),
        ({"CLASSES": NAMES[:3]}, NAMES, False),
        ({}, NAMES, False),
    ],
)
def test_a_start_takes_the_class_layers_only_for_the_same_classes(
    tmp_path, monkeypatch, meta, names, taken
):
    state_dict = foreign.mmdet(foreign.torchvision(MODEL))
    found = files.StateDict(state_dict, metadata={"meta": meta})
    monkeypatch.setattr(files, "load_file", lambda path: found)
    (tmp_path / "model.pth").write_bytes(b"")
    config, like = foreign.config(MODEL), convert.shapes(foreign.config(MODEL))
    ours = [Category(i, name) for i, name in enumerate(names)]
    filled = start.read(str(tmp_path / "model.pth"), config, like, ours)
    assert ("params/roi_heads/box_head/classes/kernel" in filled.values) == taken
    assert "params/fpn/lateral2/kernel" in filled.values


def started(monkeypatch, tmp_path, state_dict, metadata, names, **settings):
    """The start of a model for classes of these `names` from a file, and the shapes of its variables."""
    found = files.StateDict(state_dict, metadata=metadata)
    monkeypatch.setattr(files, "load_file", lambda path: found)
    (tmp_path / "model.pth").write_bytes(b"")
    config = foreign.config(MODEL)
    config.model.num_classes = len(names)
    like = convert.shapes(config)  # traced once for all of these
    config.update(settings)
    ours = [Category(i, name) for i, name in enumerate(names)]
    return start.read(str(tmp_path / "model.pth"), config, like, ours), like


@pytest.mark.parametrize("background_first", [True, False])
def test_a_start_takes_rows_by_name(tmp_path, monkeypatch, background_first):
    """Class i of the file has row i + 1 in torchvision's arrays, whose row 0 is background's."""
    arrays = foreign.torchvision(MODEL)
    state_dict = arrays if background_first else foreign.mmdet(arrays)
    found, like = started(
        monkeypatch,
        tmp_path,
        state_dict,
        {"meta": {"CLASSES": NAMES}},
        ("eel", "wolf", "fox"),
        init_classes="by_name,wolf=dog",
    )
    params, _ = found.complete({path: np.full(shape, -9.0) for path, shape in like.items()})
    box, mask = params["roi_heads"]["box_head"], params["roi_heads"]["mask_head"]
    logits = arrays["roi_heads.box_predictor.cls_score.weight"]
    new = np.full_like(logits[0], -9)
    np.testing.assert_array_equal(
        box["classes"]["kernel"].T, [logits[5], logits[4], new, logits[0]]
    )
    boxes = arrays["roi_heads.box_predictor.bbox_pred.bias"].reshape(-1, 4)
    deltas = box["deltas"]["bias"].reshape(3, 4)
    np.testing.assert_array_equal(deltas, [boxes[5], boxes[4], [-9] * 4])
    maps = arrays["roi_heads.mask_predictor.mask_fcn_logits.weight"][:, :, 0, 0]
    np.testing.assert_array_equal(mask["predictor"]["kernel"].T[:2], maps[[5, 4]])
    np.testing.assert_array_equal(
        params["rpn"]["head"]["objectness"]["bias"], arrays["rpn.head.cls_logits.bias"]
    )
    assert found.told[-2:] == [
        "classes  1 of 3 start as those of their names, wolf as dog",
        "initial  rows of classes: fox",
    ]
    assert "params/roi_heads/box_head/classes/kernel" in found.fresh


def test_rows_by_name_need_names(tmp_path, monkeypatch):
    state_dict = foreign.torchvision(MODEL)
    with pytest.raises(ValueError, match=r"5 classes without names, .*--categories="):
        started(monkeypatch, tmp_path, state_dict, {}, ("eel", "y", "z"), init_classes="by_name")
    meta = {"meta": {"CLASSES": NAMES}}
    with pytest.raises(ValueError, match=r"'eal' is none .* of the weights .did you mean eel"):
        started(monkeypatch, tmp_path, state_dict, meta, tuple("xyz"), init_classes="by_name,x=eal")
    body = {
        name.removeprefix("backbone.body."): array
        for name, array in state_dict.items()
        if name.startswith("backbone.body.")
    }
    found, _ = started(monkeypatch, tmp_path, body, {}, tuple("xyz"), init_classes="by_name")
    assert not found.rows and "the file has a backbone only" in found.initial.values()


def test_a_start_from_a_file_of_another_model_names_the_file(tmp_path):
    path = tmp_path / "model.safetensors"
    weights.save_safetensors(path, {"layer1.0.conv1.weight": np.zeros((8, 8, 1, 1), np.float32)})
    config, like = foreign.config(MODEL), convert.shapes(foreign.config(MODEL))
    with pytest.raises(ValueError, match=r"config.init_from='.*model.safetensors'.*does not fit"):
        start.read(str(path), config, like, [])


def test_the_known_classes():
    assert len(COCO80) == 80 and len(TORCHVISION90) == 90
    assert [c.id for c in TORCHVISION90] == list(range(1, 91))
    assert [c.id for c in TORCHVISION90 if c.unused] == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    assert (COCO80[0].name, COCO80[9].name, COCO80[-1]) == (
        "person",
        "traffic light",
        Category(90, "toothbrush"),
    )
    assert len({c.name for c in TORCHVISION90}) == 90


def test_coco_classes_of_torchvisions_labels():
    chosen = classes.choose("coco80", 90, 80, True)
    rows, count = chosen.rows("classes")
    assert count == 91 and list(rows[:80]) == [c.id for c in COCO80] and rows[80] == 0
    boxes, count = chosen.rows("boxes")
    assert count == 364 and list(boxes[:5]) == [4, 5, 6, 7, 8] and boxes[-1] == 363
    assert classes.choose("coco80", 80, 80, False).chosen == tuple(range(80))
    with pytest.raises(ValueError, match="classes='coco80' for the 80 of torchvision's 90 labels"):
        classes.choose("all", 90, 80, True)


@pytest.mark.parametrize("text, wanted", [("all", "all"), ("3,0", (3, 0)), ("7", (7,))])
def test_classes_on_the_command_line(text, wanted):
    assert classes.parse(text) == wanted
    with pytest.raises(ValueError, match="classes='some': allowed are all, coco80, none, or class"):
        classes.parse("some")


def test_names_of_classes():
    assert categories.of_file({}, 80) == COCO80 and categories.of_file({}, 90) == TORCHVISION90
    assert categories.of_file({}, 7) is None
    coco = {"meta": {"CLASSES": tuple(c.name for c in COCO80)}}
    assert categories.of_file(coco, 80) == COCO80
    two = {"meta": {"dataset_meta": {"CLASSES": ("ant", "bee")}}}
    assert categories.of_file(two, 2) == (Category(1, "ant"), Category(2, "bee"))
    assert categories.of_file(two, 3) is None


@pytest.mark.parametrize(
    "text", ["", "[]", '[{"id": 1}]', '{"images": []}', '[{"id": 1, "name": "a"}]' + "x", "3"]
)
def test_a_file_without_categories(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=r"c.json"):
        categories.read(str(tmp_path / "c.json"))
    twice = [dict(id=1, name="a"), dict(id=2, name="a")]
    (tmp_path / "c.json").write_text(json.dumps({"categories": twice}))
    with pytest.raises(ValueError, match="different names"):
        categories.read(str(tmp_path / "c.json"))


@pytest.mark.slow
def test_an_imported_run_is_evaluated_predicts_and_starts_training(tmp_path):
    """At the size of `configs/demo.py:runlocal`, with batch norms, which torchvision's files have."""
    flags = ["--config=configs/demo.py:runlocal"]
    config = demo.get_config("runlocal")
    for part in ("backbone", "fpn", "mask_head"):
        config.model[part].norm = "batch_norm"
        flags.append(f"--config.model.{part}.norm=batch_norm")
    names = sources.open_source(config.data, "val").categories
    config.model.num_classes = len(names)
    rng = np.random.default_rng(0)
    values = {
        path: np.abs(rng.normal(0, 0.05, shape)).astype(np.float32)  # variances among them
        for path, shape in convert.shapes(config).items()
    }
    report = weights.Report("", {}, initial=dict.fromkeys(values, ""))
    made = convert.Filled({}, report, config, None, {}).complete(values)
    source, imported = tmp_path / "model.safetensors", tmp_path / "imported"
    weights.save_safetensors(source, weights.to_torchvision(made.params, made.batch_stats, config))
    (tmp_path / "names.json").write_text(json.dumps([dict(id=c.id, name=c.name) for c in names]))
    given = [f"--categories={tmp_path / 'names.json'}", f"--workdir={imported}"]
    run_python(tmp_path, "-m", "jaxseg.weights", source, *flags, *given)
    assert "AP" in run_python(tmp_path, "eval.py", f"--workdir={imported}")
    (evaluation,) = imported.glob("eval/*/evaluation.json")
    assert json.loads(evaluation.read_text())["workdir"] == str(imported)

    cv2.imwrite(str(tmp_path / "image.png"), rng.integers(0, 255, (90, 120, 3), dtype=np.uint8))
    image = f"--images={tmp_path / 'image.png'}"
    out = f"--out={tmp_path / 'out'}"
    told = run_python(tmp_path, "predict.py", f"--workdir={imported}", image, out)
    assert "instances in 1 images" in told

    short = ["--config.train.steps=1", "--config.train.eval_every=0", "--config.eval.max_images=2"]
    for name, start_from in (("of_run", imported), ("of_file", source)):
        start_flags = [f"--config.init_from={start_from}", f"--workdir={tmp_path / name}"]
        told = run_python(tmp_path, "train.py", *flags, *short, *start_flags)
        assert f"Started from the weights of {start_from}" in told
    assert "initial  6" in told and "roi_heads/box_head/classes" in told  # no names in the file
    told = run_python(tmp_path, "train.py", *flags, *short, f"--workdir={imported}")
    assert "Resumed from step 0" in told

    trained = tmp_path / "trained.safetensors"
    run_python(
        tmp_path,
        *("-m", "jaxseg.weights.export"),
        *(f"--workdir={tmp_path / 'of_run'}", f"--out={trained}"),
    )
    found, before = weights.load_file(trained), weights.load_file(source)
    assert {n: a.shape for n, a in found.items()} == {n: a.shape for n, a in before.items()}


def run_python(folder, *arguments):
    """What a program of the checkout prints; compiled programs are kept in `folder`."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_a_start_with_other_conventions_is_told(tmp_path):
    made, config = mask_rcnn.get_config("torchvision,eps=1e-5"), mask_rcnn.get_config("torchvision")
    workdir.save_run(tmp_path, made, ())
    config.init_from = str(tmp_path)
    (line,) = init_from._conventions(config)
    assert "model.backbone.norm_epsilon=1e-05, and this config has 0.0" in line


def test_a_start_with_other_box_deltas_is_told(tmp_path):
    """Those of a ranked RPN are in other units."""
    workdir.save_run(tmp_path, mask_rcnn.get_config(""), ())
    config = mask_rcnn.get_config("ranked")
    config.init_from = str(tmp_path)
    (line,) = init_from._conventions(config)
    assert "model.criterion.rpn.coder=(1.0, 1.0, 1.0, 1.0), and this config has (10.0" in line


def test_an_import_that_was_interrupted_is_told(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"was interrupted\. Delete it"):
        run.check_new(tmp_path)
