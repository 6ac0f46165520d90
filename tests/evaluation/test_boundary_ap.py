"""Boundary AP: against plain loops, faster-coco-eval's own boundary mode, and known cases."""

import numpy as np
import pytest
from faster_coco_eval.core import mask as faster_mask
from pycocotools import mask as mask_utils
from scenes import blob, entry, perfect, rle, scene

from jaxseg.evaluation import boundary, coco

both = pytest.mark.parametrize("evaluator", coco.EVALUATORS)


def slow_boundary(mask, ratio=0.02):
    """Pixel by pixel: of the mask, and within d steps of what is not, or of the image's end."""
    height, width = mask.shape
    d = max(1, round(ratio * (height**2 + width**2) ** 0.5))
    framed = np.zeros((height + 2 * d, width + 2 * d), bool)
    framed[d:-d, d:-d] = mask
    found = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask), strict=True):
        found[y, x] = not framed[y : y + 2 * d + 1, x : x + 2 * d + 1].all()
    return found


def slow_iou(a, b):
    union = (a | b).sum()
    return (a & b).sum() / union if union else 0.0


def masks():
    rng = np.random.default_rng(0)
    yield from (blob(rng, size) for size in ((30, 40), (90, 120), (130, 75), (60, 400)))
    yield np.ones((60, 80), bool)  # its boundary is that of the image
    yield np.zeros((20, 30), bool)
    yield rng.random((50, 60)) < 0.8
    yield np.eye(40, 70, dtype=bool)
    lone = np.zeros((9, 9), bool)
    lone[8, 8] = True
    yield lone


def test_the_boundary_is_that_of_plain_loops_and_of_faster_coco_eval():
    for mask in masks():
        found = boundary.boundary(rle(mask))
        np.testing.assert_array_equal(mask_utils.decode(found), slow_boundary(mask))
        if mask.any():
            theirs = faster_mask.rleToBoundary(mask_utils.encode(np.asfortranarray(mask, np.uint8)))
            np.testing.assert_array_equal(mask_utils.decode(found), mask_utils.decode(theirs))


def test_the_width_is_a_share_of_the_diagonal_and_at_least_a_pixel():
    assert [boundary.width(size) for size in ((3, 4), (300, 400), (480, 640))] == [1, 10, 16]
    assert boundary.width((300, 400), ratio=0.1) == 50


def test_the_iou_is_the_smaller_one_but_for_crowds():
    rng = np.random.default_rng(1)
    found, wanted = ([blob(rng, (60, 80)) for _ in range(n)] for n in (7, 5))
    wanted[:2], crowd = found[:2], [0, 0, 0, 1, 1]
    encoded = [[rle(m) for m in part] for part in (found, wanted)]
    ious = np.array(mask_utils.iou(*encoded, crowd))
    limited = boundary.limited(ious, *encoded, crowd)
    for i, a in enumerate(found):
        for j, b in enumerate(wanted):
            expected = ious[i, j]
            if not crowd[j]:
                expected = min(slow_iou(a, b), slow_iou(slow_boundary(a), slow_boundary(b)))
            assert limited[i, j] == pytest.approx(expected, abs=1e-12)
    assert (limited < ious - 0.01).any()
    least = boundary.limited(ious, *encoded, crowd, least=0.5)
    np.testing.assert_array_equal(least[ious >= 0.5], limited[ious >= 0.5])
    np.testing.assert_array_equal(least[ious < 0.5], ious[ious < 0.5])


def slow_ap(truth, results, iou, area=(0, 1e10)):
    """AP at one threshold as COCO defines it, with loops and decoded masks."""
    aps = []
    for category in truth["categories"]:
        scored, total = [], 0
        for image in truth["images"]:
            mine = [image["id"], category["id"]]
            objects = [a for a in truth["annotations"] if [a["image_id"], a["category_id"]] == mine]
            objects.sort(key=lambda a: bool(a["iscrowd"]))
            total += sum(not a["iscrowd"] for a in objects)
            found = [r for r in results if [r["image_id"], r["category_id"]] == mine]
            taken = set()
            for r in sorted(found, key=lambda r: -r["score"])[:100]:
                best, match = min(iou, 1 - 1e-10), None
                for k, a in enumerate(objects):
                    if k in taken and not a["iscrowd"]:
                        continue
                    if match is not None and not objects[match]["iscrowd"] and a["iscrowd"]:
                        break
                    x, y = (mask_utils.decode(e["segmentation"]).astype(bool) for e in (r, a))
                    if a["iscrowd"]:
                        value = (x & y).sum() / x.sum()
                    else:
                        value = min(slow_iou(x, y), slow_iou(slow_boundary(x), slow_boundary(y)))
                    if value >= best:
                        best, match = value, k
                if match is not None:
                    taken.add(match)
                if match is None or not objects[match]["iscrowd"]:
                    scored.append((r["score"], match is not None))
        if not total:
            continue
        scored.sort(key=lambda pair: -pair[0])  # stable
        right = np.cumsum([s for _, s in scored])
        precision = right / np.arange(1, len(right) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(right / total, np.linspace(0, 1, 101), side="left")
        aps.append(np.append(precision, 0)[np.minimum(at, len(precision))].mean())
    return np.mean(aps)


def test_the_ap_is_that_of_plain_loops():
    truth, results = scene(np.random.default_rng(2), images=5, classes=2, crowds=0.3, noise=1)
    assert any(a["iscrowd"] for a in truth["annotations"])
    results += [r | {"score": 0.55} for r in perfect(truth)[::2]]
    found = coco.evaluate(truth, results, "boundary").summary
    for name, iou in (("AP50", 0.5), ("AP75", 0.75)):
        assert found[name] == pytest.approx(slow_ap(truth, results, iou), abs=1e-9)
    assert 0.1 < found["AP"] < coco.evaluate(truth, results, "segm").summary["AP"]


def test_the_numbers_are_those_of_faster_coco_eval_and_pycocotools():
    from faster_coco_eval import COCO, COCOeval_faster

    truth, results = scene(np.random.default_rng(3), images=16, classes=3)
    both = [coco.evaluate(truth, results, "boundary", evaluator=e) for e in coco.EVALUATORS]
    np.testing.assert_allclose(*(list(m.summary.values()) for m in both), atol=1e-12)
    found = [
        {k: v for k, v in r.items() if k != "bbox"} | {"id": i, "iscrowd": 0}
        for i, r in enumerate(results, 1)
    ]
    for r in found:
        r["area"] = int(mask_utils.area(r["segmentation"]))
    say = dict(print_function=lambda *_: None)
    pair = [COCO(d, **say) for d in (truth, truth | {"annotations": found})]
    run = COCOeval_faster(*pair, "boundary", **say)
    run.run()
    np.testing.assert_allclose(list(both[0].summary.values()), run.stats, atol=1e-9)


def test_the_number_of_the_published_results_is_that_of_faster_coco_eval(test_data):
    """COCO's 100 images with sample masks; made with faster-coco-eval 1.8.0's boundary mode, all twelve equal."""
    folder = test_data / "evaluator" / "cocoapi_val2014_100"
    found = coco.evaluate_files(
        folder / "instances_val2014_100.json",
        folder / "instances_val2014_fakesegm100_results.json",
        "boundary",
    )
    assert found["AP"] == pytest.approx(0.22639400050237551, abs=1e-9)


@both
def test_ground_truth_as_detections_is_one(evaluator):
    truth, _ = scene(np.random.default_rng(4))
    found = coco.evaluate(truth, perfect(truth), "boundary", evaluator=evaluator)
    assert found.summary["AP"] == pytest.approx(1.0)
    assert coco.evaluate(truth, [], "boundary", evaluator=evaluator).summary["AP"] == 0.0


@both
def test_a_mask_of_the_right_place_but_a_coarse_outline_loses(evaluator):
    """A square whose edge is four pixels off: IoU 0.81 of the masks; of outlines two wide nothing is common."""
    mask = np.zeros((60, 80), bool)
    mask[10:50, 10:50] = True
    coarse = np.zeros_like(mask)
    coarse[12:48, 12:48] = True
    truth = {
        "images": [dict(id=1, height=60, width=80)],
        "categories": [dict(id=1, name="a")],
        "annotations": [entry(mask, 1, 1, id=1, iscrowd=0, area=1600)],
    }
    results = [entry(coarse, 1, 1, score=0.9)]
    ap = {
        kind: coco.evaluate(truth, results, kind, evaluator=evaluator).summary["AP50"]
        for kind in ("segm", "boundary")
    }
    assert ap == {"segm": pytest.approx(1.0), "boundary": 0.0}
