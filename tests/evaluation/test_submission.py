"""Files for COCO's test server."""

import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from configs import common, mask_rcnn
from jaxseg.data import coco_json, shapes
from jaxseg.data.coco_classes import COCO80
from jaxseg.evaluation import coco as evaluation
from jaxseg.evaluation.submission import coco, entries, listing, names, servers
from jaxseg.evaluation.submission.results_file import ResultsFile

ROOT = pathlib.Path(__file__).parents[2]
SIZE = (20, 30)
IMAGES = (7, 3, 139)
CLASSES = {1: "person", 90: "toothbrush"}


def rle(seed=0, size=SIZE):
    mask = np.random.default_rng(seed).random(size) < 0.5
    found = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(size), "counts": found["counts"].decode()}


def result(image=7, score=0.5, category=1, **changes):
    entry = dict(image_id=image, category_id=category, score=score, bbox=[1, 2, 3.5, 4])
    return {**entry, "segmentation": rle(image), **changes}


@pytest.fixture
def images():
    files = {image: f"{image:012}.jpg" for image in IMAGES}
    return listing.Listing(dict.fromkeys(IMAGES, SIZE), files, CLASSES)


def write(results, images, folder, **options):
    options = {"testset": "test-dev2017", "name": "mine", **options}
    return coco.write(results, images, folder, **options)


def stem(name="mine", testset="test-dev2017"):
    return f"detections_{testset}_{name}_results"


def image_info(images):
    sizes = [
        dict(id=i, file_name=images.files[i], height=h, width=w)
        for i, (h, w) in images.sizes.items()
    ]
    return {"images": sizes, "categories": [dict(id=i, name=n) for i, n in CLASSES.items()]}


def test_what_is_written_is_what_was_found(tmp_path, images):
    results = [result(7, 0.25), result(3, 1, category=90), result(7, 0)]
    summary = write(results, images, tmp_path)
    path, archive = tmp_path / f"{stem()}.json", tmp_path / f"{stem()}.zip"
    assert json.loads(path.read_text()) == [
        {key: entry[key] for key in ("image_id", "category_id", "segmentation", "score")}
        for entry in results
    ]
    with zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == [path.name]
        assert packed.read(path.name) == path.read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, archive.name])
    assert (summary.detections, summary.images, summary.listed) == (3, 2, 3)
    assert "images without detections, which are allowed: 1" in str(summary)
    assert "3 images, and test-dev2017 has 20,288" in str(summary)
    for file in (path, archive):
        assert coco.check(file, images).detections == 3


def test_the_servers_library_reads_it_and_finds_the_published_numbers(tmp_path, test_data):
    """COCO's sample results of 100 images, with the scores that COCO's evaluation publishes for them."""
    folder = test_data / "evaluator" / "cocoapi_val2014_100"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakesegm100_results.json").read_text())
    info = tmp_path / "image_info.json"
    info.write_text(json.dumps({key: truth[key] for key in ("images", "categories")}))
    write(results, listing.read(info), tmp_path)
    path = tmp_path / f"{stem()}.json"
    assert len(COCO(str(info)).loadRes(str(path)).anns) == len(results)
    numbers = [
        evaluation.evaluate(truth, found, "segm", max_detections=100).summary
        for found in (results, json.loads(path.read_text()))
    ]
    assert numbers[0] == numbers[1]
    assert numbers[1]["AP"] == pytest.approx(0.320, abs=5e-4)


def test_the_best_hundred_of_an_image_are_kept(tmp_path, images):
    scores = np.random.default_rng(0).permutation(130) // 2 / 100  # each twice
    results = [result(3, 0.001)]
    results += [result(7, float(s), category=(1, 90)[i % 2]) for i, s in enumerate(scores)]
    summary = write(results, images, tmp_path)
    found = json.loads((tmp_path / f"{stem()}.json").read_text())
    assert sorted(r["score"] for r in found if r["image_id"] == 7) == sorted(scores)[30:]
    assert [r["score"] for r in found if r["image_id"] == 3] == [0.001]
    assert "30 detections left out: not of the 100 best of their image" in str(summary)


def test_of_equal_scores_the_first_are_kept(tmp_path, images):
    results = [result(7, 0.5, bbox=[i, 0, 1, 1]) for i in range(120)]
    write(results, images, tmp_path, boxes=True)
    found = json.loads((tmp_path / f"{stem()}.json").read_text())
    assert [r["bbox"][0] for r in found] == list(range(100))


BAD = {
    "a list": (lambda e: [1], "Entry 1: .* is no object"),
    "no score": (lambda e: e.pop("score") and e, "Entry 1 .*: no 'score' among image_id"),
    "an image of another split": (lambda e: e | {"image_id": 8}, "image_id 8 must be .* 3 images"),
    "true for 1": (lambda e: e | {"category_id": True}, "category_id True must be .* 1, 90"),
    "a class that is not there": (lambda e: e | {"category_id": 12}, "category_id 12 must be"),
    "a name for an id": (lambda e: e | {"category_id": "person"}, "category_id 'person' must be"),
    "a score over 1": (lambda e: e | {"score": 1.001}, "score 1.001 must be a number from 0 to 1"),
    "a score below 0": (lambda e: e | {"score": -0.1}, "score -0.1 must be"),
    "no number": (lambda e: e | {"score": float("nan")}, "score nan must be"),
    "text for a score": (lambda e: e | {"score": "0.5"}, "score '0.5' must be"),
    "a polygon": (lambda e: e | {"segmentation": [[1, 1, 5, 1, 5, 5]]}, "must be an RLE"),
    "another size": (
        lambda e: e | {"segmentation": rle(size=(30, 20))},
        r"size \[30, 20\], but the image's is \[20, 30\]",
    ),
    "counts as a list": (
        lambda e: e | {"segmentation": {"size": list(SIZE), "counts": [600]}},
        "counts of type list; a compressed RLE, a string",
    ),
    "runs cut off": (
        lambda e: e | {"segmentation": {"size": list(SIZE), "counts": rle()["counts"][:-4]}},
        "runs add up to the image's 20 x 30 pixels",
    ),
    "counts of other letters": (
        lambda e: e | {"segmentation": {"size": list(SIZE), "counts": "é~"}},
        "must be a compressed RLE",
    ),
    "a box of three": (lambda e: e | {"bbox": [1, 2, 3]}, "bbox .* four finite numbers"),
    "a box of negative size": (lambda e: e | {"bbox": [1, 2, 3, -4]}, "no size below 0"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_a_result_that_breaks_a_rule_is_named_and_nothing_is_written(
    tmp_path, images, spoil, message
):
    results = [result(3), spoil(result(7))]
    with pytest.raises(ValueError, match=f"Entry 1.*{message}|{message}"):
        write(results, images, tmp_path)
    assert not os.listdir(tmp_path)
    path = tmp_path / f"{stem()}.json"  # the same in a file of somebody else
    path.write_text(json.dumps(results))
    with pytest.raises(ValueError, match=message):
        coco.check(path, images)


def test_a_sound_result_is_sound(images):
    entries.check(result(), 0, images)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([result() for _ in range(101)], "Entry 100: detection 101 of image 7; at most 100"),
        ([{**result(), "area": 3}], "Entry 0: the keys area; allowed are image_id"),
        ([result(), {k: v for k, v in result().items() if k != "bbox"}], "Entry 1: no bbox"),
        ([], "The list is empty"),
    ],
)
def test_rules_of_the_whole_file(tmp_path, images, results, message):
    path = tmp_path / f"{stem()}.json"
    path.write_text(json.dumps(results))
    with pytest.raises(ValueError, match=message):
        coco.check(path, images)


def test_no_detections_cannot_be_submitted(tmp_path, images):
    with pytest.raises(ValueError, match="no detections, and COCO's server cannot read an empty"):
        write([], images, tmp_path)


def test_boxes_are_written_where_they_are_asked_for(tmp_path, images):
    write([result()], images, tmp_path, boxes=True)
    (found,) = json.loads((tmp_path / f"{stem()}.json").read_text())
    assert found["bbox"] == [1, 2, 3.5, 4]
    bare = {key: value for key, value in result().items() if key != "bbox"}
    with pytest.raises(ValueError, match="Entry 1: no 'bbox', which is asked for"):
        write([result(), bare], images, tmp_path, boxes=True)


@pytest.mark.parametrize("name", ["", "two words", "a/b", "a.b", "é", "x" * 101])
def test_names_that_cannot_be_in_file_names(tmp_path, images, name):
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        write([result()], images, tmp_path, name=name)


def test_the_default_name_is_the_work_directorys(tmp_path):
    assert names.default("runs/mr_rcnn-R50", "mask_rcnn") == "mr_rcnn-R50"
    assert names.default("runs/my run.2", "mask_rcnn") == "my-run-2"
    assert names.default("runs/..../.", "mr_rcnn") == "mr_rcnn"
    assert names.check(names.default("x" * 300, "mr_rcnn"))


@pytest.mark.parametrize(
    "name",
    ["results.json", stem(testset="val2017") + ".json", stem("a b") + ".zip", stem() + ".txt"],
)
def test_file_names_that_the_server_does_not_take(tmp_path, images, name):
    (tmp_path / name).write_text("[]")
    with pytest.raises(ValueError, match=r"wants the name detections_\[testset\]_\[name\]_results"):
        coco.check(tmp_path / name, images)


def test_a_zip_holds_one_file_of_its_own_name(tmp_path, images):
    write([result()], images, tmp_path)
    archive = tmp_path / f"{stem()}.zip"
    other = tmp_path / f"{stem('other')}.zip"
    archive.rename(other)
    with pytest.raises(ValueError, match=f"wants {stem('other')}.json in it"):
        coco.check(other, images)
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(tmp_path / f"{stem()}.json", f"folder/{stem()}.json")
    with pytest.raises(ValueError, match=f"holds folder/{stem()}.json"):
        coco.check(archive, images)
    archive.write_bytes(other.read_bytes()[:-30])
    with pytest.raises(ValueError, match="no zip file, or a damaged one"):
        coco.check(archive, images)


def test_classes_must_have_the_servers_ids(images):
    contiguous = {number: c.name for number, c in enumerate(COCO80, 1)}
    with pytest.raises(ValueError, match=r"'stop sign' has the id 12, which is 'none'"):
        coco.check_listing(listing.Listing(images.sizes, images.files, contiguous))
    coco.check_listing(listing.Listing(images.sizes, images.files, {c.id: c.name for c in COCO80}))


def test_the_table_of_classes_is_that_of_the_data_set(test_data):
    path = test_data / "coco_cc" / "annotations" / "instances_train.json"
    assert listing.read(path).categories == {c.id: c.name for c in COCO80}


# Reading a list entry by entry.


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_a_list_is_read_the_same_in_pieces_of_any_size(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("jaxseg.evaluation.submission.results_file._CHUNK", chunk)
    values = [result(i, i / 9) for i in range(7)] + [{"a": ']} , é\\" ['}, {}]
    for number, options in enumerate(({}, {"indent": 2}, {"separators": (",", ":")})):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(values, **options, ensure_ascii=False), encoding="utf-8")
        file = ResultsFile(path)
        assert list(file) == values == list(file)
    (tmp_path / "empty.json").write_text(" [ ]\n")
    assert list(ResultsFile(tmp_path / "empty.json")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a JSON list"),
        ('{"annotations": []}', "a JSON list"),
        ('[{"a": 1}', "a comma or ] is needed after entry 0"),
        ('[{"a": 1}, {"b": ', "entry 1 is cut off or no JSON"),
        ('[{"a": 1} {"b": 2}]', "a comma or ]"),
        ('[{"a": 1},]', "entry 1 is cut off or no JSON"),
        ('[{"a": 1}] []', "something follows"),
        ("[{'a': 1}]", "entry 0 is cut off or no JSON"),
    ],
)
def test_what_is_no_list_is_named(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        list(ResultsFile(path))


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        list(ResultsFile(path))


# Faults while writing.


@pytest.fixture
def file_limit():
    """Sets the size at which files cannot grow any more, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_what_was_there(tmp_path, images, file_limit):
    write([result()], images, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    file_limit(20_000)
    with pytest.raises(OSError, match=rf"Could not write .*{stem()}.json: File too large"):
        write([result(image) for image in IMAGES for _ in range(99)], images, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_zip_never_lies_beside_another_json(tmp_path, images, monkeypatch):
    write([result()], images, tmp_path)
    monkeypatch.setattr(coco, "_pack", lambda *_: exec("raise OSError(28, 'No space left')"))
    with pytest.raises(OSError, match=rf"Could not write .*{stem()}.zip: No space left"):
        write([result(3)], images, tmp_path)
    assert os.listdir(tmp_path) == [f"{stem()}.json"]


def test_what_is_on_the_disk_is_checked(tmp_path, images, monkeypatch):
    """A disk that loses what was written: here, the second half of the text."""
    dump = coco._dump

    def lose(results, file, boxes):
        dump(results, file, boxes)
        file.flush()
        os.truncate(file.name, os.path.getsize(file.name) // 2)

    monkeypatch.setattr(coco, "_dump", lose)
    with pytest.raises(ValueError, match="is cut off or no JSON"):
        write([result(image) for image in IMAGES], images, tmp_path)
    assert not os.listdir(tmp_path)


# Splits.


@pytest.mark.parametrize("arg", ["coco,root=/data/coco", "", "r101,1x,coco"])
def test_coco_has_the_splits_of_its_test_server(arg):
    data = mask_rcnn.get_config(arg).data
    assert data.test_dev.to_dict() == {
        "images": "test2017",
        "annotations": "annotations/image_info_test-dev2017.json",
    }
    assert data.test_challenge.to_dict() == {
        "images": "test2017",
        "annotations": "annotations/image_info_test2017.json",
    }


@pytest.mark.parametrize("arg", ["own,root=/data/mine", "lvis", "shapes", "cityscapes"])
def test_other_data_have_not(arg):
    data = mask_rcnn.get_config(arg).data
    assert not any([*data.test_dev.to_dict().values(), *data.test_challenge.to_dict().values()])


def test_splits_of_no_server(tmp_path):
    config = common.base().data.shapes
    config.val = 2
    source = shapes.open_split(config, "val")
    given = dict(workdir=tmp_path / "run", method="mask_rcnn")
    assert servers.plan("val", source, tmp_path, name=None, **given) is None
    with pytest.raises(ValueError, match="--submission=mine: the split 'val' is of no test server"):
        servers.plan("val", source, tmp_path, name="mine", **given)


def test_an_evaluation_of_test_dev_is_a_submission(tmp_path, images):
    for file in images.files.values():
        (tmp_path / file).touch()
    (tmp_path / "info.json").write_text(json.dumps(image_info(images)))
    source = coco_json.CocoJson(str(tmp_path / "info.json"), str(tmp_path))
    given = dict(workdir=tmp_path / "run 1", method="mask_rcnn")
    out = tmp_path / "out"
    out.mkdir()
    for split, testset in (("test_dev", "test-dev2017"), ("test_challenge", "test2017")):
        submission = servers.plan(split, source, out, name=None, **given)
        summary = submission.write([result()])
        assert summary.paths[0] == out / f"{stem('run-1', testset)}.json"
        assert coco.check(summary.paths[1], images).detections == 1
    with pytest.raises(ValueError, match="The submission's name 'a b'"):
        servers.plan("test_dev", source, out, name="a b", **given)


# The program.


def program(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "jaxseg.evaluation.submission", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_program_writes_and_checks(tmp_path, images):
    info, results = tmp_path / "info.json", tmp_path / "results.json"
    info.write_text(json.dumps(image_info(images)))
    results.write_text(json.dumps([result()]))
    done = program(
        *("coco", f"--results={results}", f"--images={info}", f"--out={tmp_path / 'out'}"),
        *("--name=mine", "--split=test-challenge", "--boxes"),
    )
    assert done.returncode == 0, done.stderr
    archive = tmp_path / "out" / f"{stem(testset='test2017')}.zip"
    assert "1 detections in 1 of 3 images" in done.stdout and str(archive) in done.stdout
    done = program("coco", f"--check={archive}", f"--images={info}")
    assert done.returncode == 0 and "Keeps the rules" in done.stdout, done.stderr


def test_the_program_names_a_result_that_breaks_a_rule(tmp_path, images):
    info, results = tmp_path / "info.json", tmp_path / "results.json"
    info.write_text(json.dumps(image_info(images)))
    results.write_text(json.dumps([result(score=2)]))
    making = [f"--results={results}", f"--images={info}", f"--out={tmp_path}", "--name=mine"]
    done = program("coco", *making)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "Entry 0 (image 7): score 2 must be a number from 0 to 1" in done.stderr


def test_mistakes_on_the_command_line_are_told_in_one_line():
    done = program("coco", "--images=x", "--check=y", "--name=a")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "--check only reads: leave out --name" in done.stderr


def test_an_image_list_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no image list .*: --images takes"):
        listing.read(tmp_path / "info.json")
