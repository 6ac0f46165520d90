"""LVIS AP: the numbers of the `lvis` package, known cases, and ground truth that lacks what it needs."""

import copy
import json

import numpy as np
import pytest
from scenes import entry, perfect, scene

from jaxseg.evaluation import lvis


def federated(rng, **options):
    """A scene as of LVIS: an image says of some classes that they are not there, or not all annotated."""
    truth, results = scene(rng, **options)
    categories = [c["id"] for c in truth["categories"]]
    for k, category in enumerate(truth["categories"]):
        category["frequency"] = "rcf"[k % 3]
    for image in truth["images"]:
        there = {a["category_id"] for a in truth["annotations"] if a["image_id"] == image["id"]}
        absent = [c for c in categories if c not in there]
        image["neg_category_ids"] = [c for c in absent if rng.random() < 0.5]
        image["not_exhaustive_category_ids"] = [c for c in there if rng.random() < 0.4]
    return truth, results


def of_package(truth, results, iou_type, folder, *, boxes=False):
    """What the `lvis` package says; it takes the areas of boxes where they stand beside masks."""
    package = pytest.importorskip("lvis", reason="the lvis package (tests/peers.txt) is missing")
    (folder / "truth.json").write_text(json.dumps(truth))
    drop = "bbox" if iou_type == "segm" and not boxes else None
    results = [{k: v for k, v in r.items() if k != drop} for r in copy.deepcopy(results)]
    ground_truth = package.LVIS(str(folder / "truth.json"))
    run = package.LVISEval(
        ground_truth, package.LVISResults(ground_truth, results), iou_type=iou_type
    )
    run.run()
    return {
        name.replace("s@300", "s").replace("m@300", "m").replace("l@300", "l").replace("@", ""): v
        for name, v in run.get_results().items()
    }


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("area_from", ["mask", "box"])
def test_the_numbers_are_those_of_the_lvis_package(iou_type, area_from, tmp_path, monkeypatch):
    monkeypatch.setattr(np, "float", float, raising=False)  # the package is older than NumPy 1.20
    for seed in range(2):
        rng = np.random.default_rng(seed)
        truth, results = federated(rng, classes=6, sizes=((90, 120), (200, 150)))
        wanted = of_package(truth, results, iou_type, tmp_path, boxes=area_from == "box")
        found = lvis.evaluate(truth, results, iou_type, area_from=area_from).summary
        assert list(found) == list(lvis.names())
        assert found.keys() == wanted.keys()
        np.testing.assert_allclose([found[k] for k in wanted], list(wanted.values()), atol=1e-9)
        assert 0.05 < found["AP"] < 0.9 and len(set(found.values())) > 10


def test_the_best_of_an_image_count_whatever_their_class(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "float", float, raising=False)
    rng = np.random.default_rng(5)
    truth, results = federated(rng, images=4, classes=3, crowds=0)
    for image in truth["images"]:  # 299 of one leave room for one more
        one = next((r for r in results if r["image_id"] == image["id"]), None)
        results += [one | {"score": 2.0}] * 299 if one else []
    wanted = of_package(truth, results, "segm", tmp_path)
    found = lvis.evaluate(truth, results, "segm").summary
    np.testing.assert_allclose([found[k] for k in wanted], list(wanted.values()), atol=1e-9)
    more = lvis.evaluate(truth, results, "segm", max_detections=1000).summary
    assert more["AR1000"] > found["AR300"]


@pytest.mark.parametrize("iou_type", ["bbox", "segm", "boundary"])
def test_ground_truth_as_detections_is_one(iou_type):
    truth, _ = federated(np.random.default_rng(0), crowds=0)
    found = lvis.evaluate(truth, perfect(truth), iou_type)
    defined = {k: v for k, v in found.summary.items() if v != -1}
    assert defined == pytest.approx(dict.fromkeys(defined, 1.0))
    assert {"AP", "APr", "APc", "APf", "APs", "APm", "AR300"} <= set(defined)
    assert found.per_class["class 0"]["AP"] == pytest.approx(1.0)
    assert found.curves["AP"].mean() == pytest.approx(1.0)


def small_truth(**image):
    mask = np.zeros((40, 50), bool)
    mask[5:25, 5:30] = True
    other = np.roll(mask, 14, 0)
    lists = dict(neg_category_ids=[2], not_exhaustive_category_ids=[]) | image
    return {
        "images": [dict(id=1, height=40, width=50, **lists)],
        "categories": [dict(id=i, name=n, frequency="r") for i, n in ((1, "a"), (2, "b"))],
        "annotations": [entry(mask, 1, 1, id=1, area=500)],
    }, (entry(mask, 1, 1, score=0.5), entry(other, 1, 1, score=0.9))


def test_a_false_alarm_counts_unless_the_class_is_not_exhaustively_annotated():
    truth, results = small_truth()
    assert lvis.evaluate(truth, results).summary["AP"] == pytest.approx(0.5)
    truth, results = small_truth(not_exhaustive_category_ids=[1])
    assert lvis.evaluate(truth, results).summary["AP"] == pytest.approx(1.0)


def test_a_class_that_nobody_looked_for_in_an_image_does_not_count():
    """Class b has its object in another image; in the first one it was sought, or not."""
    for negative, wanted in (([2], 0.5), ([], 1.0)):
        truth, (right, alarm) = small_truth(neg_category_ids=negative)
        image = truth["images"][0]
        truth["images"].append(image | {"id": 2, "neg_category_ids": []})
        truth["annotations"].append(truth["annotations"][0] | dict(id=2, image_id=2, category_id=2))
        there = right | dict(image_id=2, category_id=2, score=0.4)
        results = [right, there, alarm | dict(category_id=2)]
        found = lvis.evaluate(truth, results)
        assert found.per_class["b"]["AP"] == pytest.approx(wanted)
        assert found.per_class["a"]["AP"] == pytest.approx(1.0)


def test_nothing_found_is_zero_and_nothing_annotated_minus_one():
    truth, results = small_truth()
    found = lvis.evaluate(truth, [])
    assert found.summary["AP"] == found.summary["APr"] == found.summary["AR300"] == 0
    assert found.summary["APc"] == found.summary["APl"] == -1 and found.per_class["b"]["AP"] == -1
    empty = lvis.evaluate(truth | {"annotations": []}, results)
    assert set(empty.summary.values()) == {-1.0} and np.isnan(empty.curves["AP"]).all()


def test_what_is_lacking_or_wrong_is_named():
    truth, results = small_truth()
    before = copy.deepcopy((truth, results))
    del truth["categories"][1]["frequency"]
    with pytest.raises(ValueError, match=r"lacks `frequency` .* of the category 'b'"):
        lvis.evaluate(truth, results)
    truth = copy.deepcopy(before[0])
    del truth["images"][0]["neg_category_ids"]
    with pytest.raises(ValueError, match="lacks `neg_category_ids` of the image 1"):
        lvis.evaluate(truth, results)
    truth = copy.deepcopy(before[0])
    for change, message in (
        ({"category_id": 9}, "category id 9 in result 1"),
        ({"image_id": 9}, "image id 9 in result 1"),
        ({"score": float("nan")}, "score of result 1"),
        ({"segmentation": None}, "result 1, image 1, is neither"),
    ):
        with pytest.raises(ValueError, match=message):
            lvis.evaluate(truth, [results[0], results[1] | change])
    assert (truth, results) == before
