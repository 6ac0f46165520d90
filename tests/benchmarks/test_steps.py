"""What step and inference benchmarks measure, and what they import."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import detector, macs, nms, profiling, selection
from configs import mask_rcnn
from jaxseg import methods
from jaxseg.ops import boxes as boxes_lib

ROOT = pathlib.Path(__file__).parents[2]
_BLOCKED = "jaxseg.data jaxseg.evaluation pycocotools faster_coco_eval grain cv2 tensorboardX tensorflow_datasets torch"
_IMPORTS = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if any(name == b or name.startswith(b + ".") for b in "{_BLOCKED}".split()):
            raise ImportError(name + " must not be needed")
sys.meta_path.insert(0, Blocked())
from benchmarks import inference, nms, selection, suite
"""


def test_steps_need_neither_data_nor_evaluation():
    command = [sys.executable, "-c", _IMPORTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def prepared(**changes):
    return detector.prepared(
        mask_rcnn.get_config("r18"), size=(64, 96), batch=2, dtype="float32", **changes
    )


def test_a_config_is_made_for_the_scene_and_not_changed():
    given = mask_rcnn.get_config("r18")
    config = prepared(data__max_crowds=1)
    assert config.data.buckets == ((64, 96),) and config.data.max_crowds == 1
    assert config.train.batch_size == 2 and config.model.num_classes == detector.CLASSES
    assert mask_rcnn.get_config("r18").to_dict() == given.to_dict()


@pytest.mark.parametrize("key", ["model__test__scor", "model__tset__score"])
def test_an_unknown_key_is_refused(key):
    with pytest.raises(KeyError, match="scor"):
        prepared(**{key: 0.1})


@pytest.mark.slow
def test_a_training_step_is_counted_with_its_gradients():
    config = prepared()
    model = methods.build(config)
    batch, params, stats = detector.shapes(config, model, 2)

    def forward(params, stats, batch):
        variables, key = {"params": params, "batch_stats": stats}, jax.random.key(0)
        return model.apply(variables, batch, key, jnp.zeros((), int), method="losses")[0]

    once = detector._total(jax.make_jaxpr(forward)(params, stats, batch))
    # Twice the forward's for gradients of weights and inputs; frozen layers have none, and the first ones no inputs'.
    assert 2.5 * once < detector.training_macs(config) < 3 * once


def names(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        chosen = equation.primitive.name == "cond"  # what is chosen by platform: not as on a CPU
        for body in macs._branches(equation) if chosen else macs._bodies(equation.params):
            yield from names(body)


def test_a_training_step_asks_the_host_for_nothing_but_when_suppression_ends():
    found = list(names(detector.training_jaxpr(prepared()).jaxpr))
    assert not [name for name in found if "callback" in name or name in ("infeed", "outfeed")]
    assert found.count("while") == 1 and found.count("top_k") > 1


def test_only_the_last_norm_of_a_block_is_damped():
    stats = {
        "body": {
            f"block{b}": {f"norm{n}": {"scale": np.ones(2), "mean": np.ones(2)} for n in (1, 2, 3)}
            for b in (1, 2)
        }
    }
    del stats["body"]["block2"]["norm3"]
    found = detector.damped(stats, 0.5)["body"]
    assert [found["block1"][f"norm{n}"]["scale"][0] for n in (1, 2, 3)] == [1, 1, 0.5]
    assert [found["block2"][f"norm{n}"]["scale"][0] for n in (1, 2)] == [1, 0.5]
    assert all(n["mean"][0] == 1 for block in found.values() for n in block.values())


def test_empty_slots_are_refused():
    detector.filled_slots([100, 100], 100)
    with pytest.raises(ValueError, match=r"found \[100, 7\] objects instead of 100"):
        detector.filled_slots(np.array([100, 7]), 100)


@pytest.mark.parametrize("kind", nms.KINDS)
def test_the_loop_keeps_what_a_plain_loop_keeps(kind):
    boxes, scores = nms.KINDS[kind](np.random.default_rng(0), 60)
    expected, left = [], list(np.argsort(-scores))
    while left:
        best, *left = left
        expected.append(best)
        left = [i for i in left if iou(boxes[best], boxes[i]) <= nms.IOU]
    index, valid = nms.loop(*map(jnp.asarray, (boxes, scores)), 60)
    assert np.asarray(index)[np.asarray(valid)].tolist() == expected
    with pytest.raises(ArithmeticError, match="in 1 lists"):
        nms._same([np.array(expected)[::-1]], [np.array(expected)])


def test_the_best_anchors_lie_on_objects():
    """As those of a trained model: several find the same box."""
    rpn = methods.build(prepared()).rpn
    levels = selection.pyramid((128, 192), 2)
    logits, deltas = selection.rpn_outputs(np.random.default_rng(0), rpn, levels)
    assert [x.shape for x in deltas] == [(2, 3 * h * h * 3 // 2, 4) for h in (32, 16, 8, 4, 2)]
    best = np.argsort(-logits[0][0])[:30]
    anchors = jnp.asarray(rpn.anchors(levels)[0][best])
    boxes = boxes_lib.decode(deltas[0][0][best], anchors, rpn.coder)
    assert (np.triu(boxes_lib.iou(boxes, boxes), 1).max(1) > 0.5).sum() > 15


def iou(a, b):
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    area = lambda box: np.prod(box[2:] - box[:2])  # noqa: E731
    return sides.prod() / (area(a) + area(b) - sides.prod())


def test_peaks_of_known_devices():
    assert profiling.peak_tflops("NVIDIA H200", "bfloat16") == 989
    assert profiling.peak_tflops("TPU v5 lite", "float32") is None
    assert profiling.peak_tflops("cpu", "float32") is None


def run(name, *arguments):
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name, more", [("train_step", []), ("inference", ["--pasted"])])
def test_commands(name, more, tmp_path):
    tiny = ["--backbone=r18", "--size=64,64", "--batch_size=1", "--repeats=1", "--least_seconds=0"]
    out = run(name, *tiny, *more, f"--json={tmp_path / 'out.json'}")
    result = json.loads((tmp_path / "out.json").read_text())
    rows = result["contests"]["mask_rcnn"]
    assert rows["mask_rcnn"]["seconds"] > 0 and rows["mask_rcnn"]["ratio"] == 1
    peer = rows["torchvision"]  # where it is not installed, its row says so
    assert peer["skipped"] in out if "skipped" in peer else peer["ratio"] > 0


@pytest.mark.slow
def test_profile(tmp_path):
    out = run(
        "inference", "--backbone=r18", "--size=64,64", f"--profile={tmp_path}", "--peak_tflops=1"
    )
    assert "GFLOPs of convolutions and matrix products" in out and "of 1 (--peak_tflops)." in out
    assert [*tmp_path.rglob("*.xplane.pb")] and out.count("| `") == profiling.TOP


@pytest.mark.slow
def test_refining():
    out = run("refining", "--backbone=r18", "--size=64,64", "--topk=10", "--repeats=1")
    assert "| refine_topk=10 | " in out
