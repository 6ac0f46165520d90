"""Which protocol measures what, and settings that are refused before anything runs."""

import copy
import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scenes import perfect, rle, scene

from configs import common
from jaxseg.evaluation import cityscapes, coco, lvis, measure


def settings(**changes):
    config = common.base()
    config.eval.update(changes)
    return measure.settings(config.eval)


def truths(crowds=0.1):
    """One scene with the fields of each protocol."""
    made = {}
    for name in measure.PROTOCOLS:
        truth, _ = scene(np.random.default_rng(0), images=5, crowds=crowds)
        for k, category in enumerate(truth["categories"] if name == "lvis" else ()):
            category["frequency"] = "rcf"[k % 3]
        for image in truth["images"]:
            if name == "lvis":
                image |= dict(neg_category_ids=[], not_exhaustive_category_ids=[])
            if name == "cityscapes":
                image["void"] = rle(np.zeros((image["height"], image["width"]), bool))
        made[name] = truth
    return made


@pytest.mark.parametrize("name", measure.PROTOCOLS)
def test_the_protocol_is_that_of_the_ground_truth_and_perfect_detections_are_one(name):
    truth = truths(crowds=0)[name]
    before = copy.deepcopy(truth)
    used = measure.chosen(settings(), truth)
    assert used == dataclasses.replace(settings(), protocol=name)
    found = measure.measure(truth, perfect(truth), used)
    assert list(found)[:2] == ["box", "mask"]
    for metrics in found.values():
        assert metrics.summary["AP"] == pytest.approx(1.0)
        assert list(metrics.curves)[:3] == ["recall", "AP", "AP50"] and "AP95" in metrics.curves
    assert measure.chosen(settings(protocol="coco"), truth).protocol == "coco"  # what is asked for
    assert truth == before


def test_each_protocol_measures_by_its_own_rules():
    _, results = scene(np.random.default_rng(0), images=5)
    found = {
        name: measure.measure(truth, results, measure.chosen(settings(), truth))
        for name, truth in truths().items()
    }
    truth = truths()
    assert found["coco"]["mask"] == coco.evaluate(truth["coco"], results, "segm")
    assert found["coco"]["box"] == coco.evaluate(truth["coco"], results, "bbox")
    assert found["lvis"]["mask"] == lvis.evaluate(
        truth["lvis"], results, "segm", max_detections=100
    )
    assert found["lvis"]["box"] == lvis.evaluate(truth["lvis"], results, "bbox", max_detections=100)
    assert found["cityscapes"]["mask"] == cityscapes.evaluate(truth["cityscapes"], results)
    assert found["cityscapes"]["box"] == found["coco"]["box"]  # it has none of its own
    assert found["cityscapes"]["mask_coco"] == found["coco"]["mask"]
    assert len({m["mask"].summary["AP"] for m in found.values()}) == 3


@pytest.mark.parametrize("name", ["coco", "lvis"])
def test_boundary_ap_stands_beside_the_others(name):
    truth = truths()[name]
    _, results = scene(np.random.default_rng(0), images=5)
    found = measure.measure(truth, results, measure.chosen(settings(boundary=True), truth))
    assert list(found) == ["box", "mask", "boundary"]
    assert 0 < found["boundary"].summary["AP"] < found["mask"].summary["AP"]


def test_sizes_from_boxes_are_those_of_results_that_hold_boxes_beside_masks():
    truth, results = scene(np.random.default_rng(1), images=8, sizes=((140, 200), (90, 120)))
    used = measure.chosen(settings(area_from="box"), truth)
    found = measure.measure(truth, results, used)["mask"].summary
    known = COCO()
    known.dataset = copy.deepcopy(truth)
    known.createIndex()
    run = COCOeval(known, known.loadRes(copy.deepcopy(results)), "segm")  # takes the box's area
    run.evaluate()
    run.accumulate()
    run.summarize()
    np.testing.assert_allclose(list(found.values()), run.stats, atol=1e-9)
    by_mask = measure.measure(truth, results, measure.chosen(settings(), truth))["mask"].summary
    assert by_mask["AP"] == found["AP"] and by_mask["APs"] != found["APs"]
    for result in results:
        del result["bbox"]
    with pytest.raises(ValueError, match="'bbox' is missing in result 0"):
        coco.evaluate(truth, results, "segm", area_from="box")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(protocol="voc"), "config.eval.protocol='voc': allowed are auto, coco, lvis, citysc"),
        (dict(boundary=1), "config.eval.boundary=1: it must be True or False"),
        (dict(area_from="boxes"), "config.eval.area_from='boxes': allowed are mask, box"),
        (dict(max_detections=5), "config.eval.max_detections=5"),
        (dict(evaluator="mine"), "config.eval.evaluator='mine'"),
        (dict(protocol="cityscapes", boundary=True), "not for the protocol of Cityscapes"),
        (dict(protocol="lvis", evaluator="pycocotools"), "'pycocotools' does not know the protoc"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        measure.settings(ConfigDict(common.base().eval.to_dict() | changes))


def test_settings_of_a_run_that_did_not_know_them_are_the_defaults():
    old = ConfigDict(dict(max_detections=300, evaluator="pycocotools"))
    assert measure.settings(old) == measure.Settings(
        max_detections=300, evaluator="pycocotools", protocol="auto"
    )


def test_what_does_not_fit_the_ground_truth_is_refused():
    known = truths()
    for name, what in (("lvis", "`frequency`"), ("cityscapes", "`void`")):
        with pytest.raises(ValueError, match=f"{name}' .config.eval.protocol.*lacks {what}"):
            measure.chosen(settings(protocol=name), known["coco"])
    del known["lvis"]["images"][2]["neg_category_ids"]
    with pytest.raises(ValueError, match=r"the ground truth's.*`neg_category_ids` of the image 3"):
        measure.chosen(settings(), known["lvis"])
    with pytest.raises(ValueError, match="not for the protocol of Cityscapes"):
        measure.chosen(settings(boundary=True), known["cityscapes"])
    with pytest.raises(ValueError, match="does not know the protocol of LVIS"):
        measure.chosen(settings(evaluator="pycocotools"), truths()["lvis"])


def test_very_many_classes_fall_into_groups():
    truth = truths()["lvis"]
    assert measure.groups(truth, settings(protocol="lvis")) == {
        "rare": ["class 0", "class 3"],
        "common": ["class 1"],
        "frequent": ["class 2"],
    }
    found = measure.groups(truth | {"annotations": truth["annotations"][:1]}, settings())
    assert [len(names) for names in found.values()] == [3, 1, 0, 0]
