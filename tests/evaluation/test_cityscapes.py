"""Cityscapes AP: the numbers of its own scripts, known cases, and ground truth that lacks what it needs."""

import copy
import importlib
import sys
import types

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils
from scenes import blob, entry, moved, perfect, rle

from jaxseg.evaluation import cityscapes

CLASSES = dict(person=24, rider=25, car=26, truck=27, bus=28, train=31, motorcycle=32, bicycle=33)
VOID = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)  # labels that are ignored, if positive
UNUSED = 31  # no object of it is there


def id_map(rng, size=(160, 200)):
    """An image of instance ids: void, stuff, objects with holes that cover each other, groups, and small ones."""
    ids = np.where(rng.random() < 0.5, 7, 11) * np.ones(size, np.uint16)
    for label in rng.choice(VOID, 3):
        ids[blob(rng, size)] = label
    for number in range(int(rng.integers(0, 14))):
        label = int(rng.choice([i for i in CLASSES.values() if i != UNUSED]))
        # 29001 is a caravan: of an ignored class, but its pixels are not of an ignored label.
        value = rng.choice([label, 29001, label * 1000 + number], p=[0.15, 0.05, 0.8])
        ids[blob(rng, size, 0.05 if rng.random() < 0.3 else 0.3)] = value
    return ids


def ground_truth(maps):
    """What the data set's preparation makes of such images."""
    truth = {
        "images": [
            dict(id=i, height=ids.shape[0], width=ids.shape[1], void=rle(np.isin(ids, VOID)))
            for i, ids in enumerate(maps)
        ],
        "categories": [dict(id=label, name=name) for name, label in CLASSES.items()],
        "annotations": [],
    }
    for i, ids in enumerate(maps):
        for value in np.unique(ids).tolist():
            label = value if value < 1000 else value // 1000
            if label in CLASSES.values():
                made = entry(ids == value, i, label, iscrowd=int(value < 1000))
                made |= dict(id=len(truth["annotations"]) + 1, area=int((ids == value).sum()))
                truth["annotations"].append(made)
    return truth


def detections(rng, maps):
    """Masks that overlap, twins, false alarms, and scores that tie."""
    results = []
    for i, ids in enumerate(maps[:-1]):  # nothing is found in the last image
        seen = []
        for value in np.unique(ids).tolist():
            label = value if value < 1000 else value // 1000
            if label in CLASSES.values():
                seen += [(moved(rng, ids == value, 4), label) for _ in range(rng.integers(0, 4))]
        seen += [
            (blob(rng, ids.shape, 0.2), int(rng.choice(list(CLASSES.values())))) for _ in range(6)
        ]
        for mask, label in seen:
            if mask.any():
                results.append(entry(mask, i, label, score=round(float(rng.random()), 1)))
    return results


@pytest.fixture
def script(monkeypatch):
    """Cityscapes' own evaluation; pyquaternion is for 3D boxes, and NumPy 2.4 has no in1d."""
    monkeypatch.setitem(sys.modules, "pyquaternion", types.SimpleNamespace(Quaternion=object))
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    name = "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
    pytest.importorskip(
        "cityscapesscripts", reason="cityscapesscripts (tests/peers.txt) is missing"
    )
    return importlib.import_module(name)


def of_scripts(script, maps, results, folder):
    """What it says of PNGs and lists of predictions."""
    (folder / "gt").mkdir(parents=True)
    (folder / "results").mkdir()
    images, lists = [], []
    for i, ids in enumerate(maps):
        images.append(str(folder / "gt" / f"a_{i:06}_000019_gtFine_instanceIds.png"))
        Image.fromarray(ids.astype(np.uint16)).save(images[-1])
        lists.append(str(folder / "results" / f"a_{i:06}_000019.txt"))
        lines = []
        for n, result in enumerate(r for r in results if r["image_id"] == i):
            mask = mask_utils.decode(result["segmentation"]) * 255
            Image.fromarray(mask).save(folder / "results" / f"{i}_{n}.png")
            lines.append(f"{i}_{n}.png {result['category_id']} {result['score']}\n")
        (folder / "results" / f"a_{i:06}_000019.txt").write_text("".join(lines))
    args = copy.copy(script.args)
    args.quiet, args.predictionPath = True, str(folder / "results")
    args.gtInstancesFile = str(folder / "instances.json")
    script.setInstanceLabels(args)
    known = script.getGtInstances(images, args)
    matches = script.matchGtWithPreds(lists, images, known, args)
    return script.computeAverages(script.evaluateMatches(matches, args), args)


@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_are_those_of_the_scripts(seed, script, tmp_path):
    rng = np.random.default_rng(seed)
    maps = [id_map(rng) for _ in range(10)]
    maps += [np.full((160, 200), 7, np.uint16), id_map(rng)]  # one without objects
    truth, results = ground_truth(maps), detections(rng, maps)
    assert any(a["iscrowd"] for a in truth["annotations"])
    assert any(a["area"] < 100 for a in truth["annotations"])
    wanted = of_scripts(script, maps, results, tmp_path)
    found = cityscapes.evaluate(truth, results)
    assert found.summary["AP"] == pytest.approx(wanted["allAp"], abs=1e-9)
    assert found.summary["AP50"] == pytest.approx(wanted["allAp50%"], abs=1e-9)
    assert 0.02 < found.summary["AP"] < found.summary["AP50"] < 0.95
    assert list(found.per_class) == list(CLASSES)
    for name, numbers in found.per_class.items():
        wants = [wanted["classes"][name][key] for key in ("ap", "ap50%")]
        np.testing.assert_allclose(
            [numbers["AP"], numbers["AP50"]], np.nan_to_num(wants, nan=-1), atol=1e-9
        )
    assert found.per_class["train"] == {"AP": -1.0, "AP50": -1.0}


def test_ground_truth_as_detections_is_one():
    maps = [id_map(np.random.default_rng(seed)) for seed in range(4)]
    truth = ground_truth(maps)
    found = cityscapes.evaluate(truth, perfect(truth))
    defined = [numbers for numbers in found.per_class.values() if numbers["AP"] != -1]
    assert len(defined) > 3
    for numbers in (found.summary, *defined):
        assert numbers == pytest.approx({"AP": 1.0, "AP50": 1.0})
    assert found.curves["AP"].mean() == pytest.approx(1.0)


def square(x, y, side, size=(100, 120)):
    mask = np.zeros(size, bool)
    mask[y : y + side, x : x + side] = True
    return mask


def one_object(*, void=None, others=()):
    """A car, and what else is there: (mask, iscrowd) of the same class."""
    void = np.zeros((100, 120), bool) if void is None else void
    masks = [(square(5, 5, 20), 0), *others]
    return {
        "images": [dict(id=1, height=100, width=120, void=rle(void))],
        "categories": [dict(id=26, name="car")],
        "annotations": [
            entry(mask, 1, 26, id=i, area=int(mask.sum()), iscrowd=crowd)
            for i, (mask, crowd) in enumerate(masks, 1)
        ],
    }


def ap(truth, *found):
    results = [entry(mask, 1, 26, score=score) for mask, score in found]
    return cityscapes.evaluate(truth, results).summary["AP50"]


RIGHT, ALARM = (square(5, 5, 20), 0.5), (square(60, 60, 20), 0.9)


def test_a_false_alarm_is_forgiven_where_more_than_the_threshold_of_it_is_not_evaluated():
    half, most = square(60, 60, 20), square(60, 60, 20)
    half[:, 70:] = False
    most[:, 71:] = False
    assert ap(one_object(), RIGHT, ALARM) == pytest.approx(0.25)  # the trapezoid of (0, 1), (1, .5)
    # Recall is 0 at the alarm and 1 at precision 1/2 after it: from (0, 0) to (1, 1/2).
    for region, wanted in ((half, 0.25), (most, 1.0)):
        assert ap(one_object(void=region), RIGHT, ALARM) == pytest.approx(wanted)
        assert ap(one_object(others=[(region, 1)]), RIGHT, ALARM) == pytest.approx(wanted)


def test_small_objects_neither_count_nor_harm():
    small, just = square(60, 60, 9), square(60, 60, 10)
    assert ap(one_object(others=[(small, 0)]), RIGHT) == pytest.approx(1.0)
    assert ap(one_object(others=[(small, 0)]), RIGHT, (small, 0.9)) == pytest.approx(1.0)
    assert ap(one_object(others=[(just, 0)]), RIGHT) == pytest.approx(0.5)


def test_the_iou_must_be_over_the_threshold():
    double = square(5, 5, 20)
    double[5:25, 25:45] = True  # IoU 0.5
    assert ap(one_object(), (double, 0.9)) == 0.0
    double[5, 44] = False
    assert ap(one_object(), (double, 0.9)) == pytest.approx(1.0)


def test_a_second_detection_of_an_object_is_a_false_alarm():
    assert ap(one_object(), RIGHT, (RIGHT[0], 0.4)) == pytest.approx(1.0)  # after it: no harm
    twin = square(60, 5, 20)
    truth = one_object(others=[(twin, 0)])
    with_twin = ap(truth, RIGHT, (RIGHT[0], 0.4), (twin, 0.3))
    assert with_twin == pytest.approx(0.5 + (0.5 + 2 / 3) / 2 * 0.5)
    assert ap(truth, (RIGHT[0], 0.4), RIGHT, (twin, 0.3)) == pytest.approx(with_twin)


def test_nothing_found_is_zero_and_nothing_annotated_minus_one():
    truth = one_object()
    assert ap(truth) == 0.0
    empty = cityscapes.evaluate(truth | {"annotations": []}, [entry(RIGHT[0], 1, 26, score=1.0)])
    assert set(empty.summary.values()) == {-1.0} and np.isnan(empty.curves["AP50"]).all()
    # All that was found is forgiven: the scripts end in an IndexError there.
    assert ap(one_object(void=square(60, 60, 20)), ALARM) == 0.0


def test_what_is_lacking_or_wrong_is_named():
    truth = one_object()
    wrong = copy.deepcopy(truth)
    wrong["images"][0]["void"] = rle(np.zeros((5, 5), bool))
    with pytest.raises(ValueError, match=r"`void` of image 1 is an RLE of size \(5, 5\)"):
        cityscapes.evaluate(wrong, [])
    del wrong["images"][0]["void"]
    with pytest.raises(ValueError, match=r"lacks `void` .* of the image 1"):
        cityscapes.evaluate(wrong, [])
    with pytest.raises(ValueError, match="category id 3 in result 0"):
        cityscapes.evaluate(truth, [entry(RIGHT[0], 1, 3, score=1.0)])
