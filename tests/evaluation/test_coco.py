"""COCO AP: published numbers, known cases, and errors that name what is wrong."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from jaxseg.evaluation import coco

both = pytest.mark.parametrize("evaluator", coco.EVALUATORS)
each_type = pytest.mark.parametrize("iou_type", ["bbox", "segm"])


def box_rle(x, y, w, h, size=(100, 120)):
    mask = np.zeros(size, np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    rle = mask_utils.encode(mask)
    return {"size": list(size), "counts": rle["counts"].decode()}


def annotation(box, image=1, category=3, **more):
    entry = dict(
        id=0, image_id=image, category_id=category, bbox=list(box), iscrowd=0, area=box[2] * box[3]
    )
    return {**entry, "segmentation": box_rle(*box), **more}


def result(box, image=1, category=3, score=0.9):
    return dict(
        image_id=image,
        category_id=category,
        bbox=list(box),
        score=score,
        segmentation=box_rle(*box),
    )


def truth(annotations, images=(1, 2), categories=((3, "cat"), (7, "dog"))):
    return {
        "images": [dict(id=i, height=100, width=120, file_name=f"{i}.jpg") for i in images],
        "annotations": [{**a, "id": i} for i, a in enumerate(annotations)],  # one has id 0
        "categories": [dict(id=i, name=name) for i, name in categories],
    }


ONE = pytest.approx(1.0)  # pycocotools divides by 1 + the smallest float
BOXES = [(5, 5, 20, 20), (40, 10, 50, 60), (10, 50, 25, 40)]


@both
@each_type
def test_published_numbers(test_data, evaluator, iou_type):
    folder = test_data / "evaluator" / "cocoapi_val2014_100"
    expected = json.loads((folder / "expected.json").read_text())
    numbers = coco.evaluate_files(
        folder / expected["ground_truth"],
        folder / expected[iou_type]["results"],
        iou_type,
        evaluator=evaluator,
    )
    assert list(numbers) == expected["order"].split()
    assert all(type(value) is float for value in numbers.values())
    np.testing.assert_allclose(list(numbers.values()), expected[iou_type]["stats"], atol=1e-9)


@both
@each_type
def test_perfect_detections_score_one_and_sizes_without_objects_minus_one(evaluator, iou_type):
    numbers = coco.evaluate(
        truth([annotation(box) for box in BOXES]),
        [result(box) for box in BOXES],
        iou_type,
        evaluator=evaluator,
    ).summary
    assert [numbers[k] for k in ("AP", "AP50", "APs", "APm")] == pytest.approx([1.0] * 4)
    assert numbers["APl"] == numbers["ARl"] == -1.0
    assert numbers["AR1"] == pytest.approx(1 / 3)


@both
@each_type
def test_no_detections_are_zero_not_an_error(evaluator, iou_type):
    numbers = coco.evaluate(
        truth([annotation(box) for box in BOXES]), [], iou_type, evaluator=evaluator
    ).summary
    assert {k: v for k, v in numbers.items() if v != 0} == {"APl": -1.0, "ARl": -1.0}


@both
def test_no_ground_truth_is_minus_one(evaluator):
    for ground_truth in (truth([]), truth([], images=()), truth([], categories=())):
        results = (
            [result(BOXES[0])] if ground_truth["images"] and ground_truth["categories"] else []
        )
        numbers = coco.evaluate(ground_truth, results, "segm", evaluator=evaluator).summary
        assert set(numbers.values()) == {-1.0}


@both
def test_more_than_a_hundred_detections(evaluator):
    """Real images of nuclei hold up to 369: 100 detections cannot find them all."""
    boxes = [(x, y, 4, 4) for x in range(0, 115, 6) for y in range(0, 90, 6)]
    assert 250 < len(boxes) < 400
    args = truth([annotation(box) for box in boxes]), [result(box) for box in boxes], "bbox"
    all_of_them = coco.evaluate(*args, max_detections=400, evaluator=evaluator).summary
    assert list(all_of_them)[8] == "AR400"
    assert [all_of_them[k] for k in ("AP", "AR400", "APs")] == pytest.approx([1.0] * 3)
    hundred = coco.evaluate(*args, evaluator=evaluator).summary
    assert hundred["AR100"] == pytest.approx(100 / len(boxes))
    assert hundred["AP"] < 0.5


@both
@pytest.mark.parametrize("mask", [box_rle(30, 30, 60, 60), None])
def test_detections_on_a_crowd_do_not_count(evaluator, mask):
    crowd = annotation((30, 30, 60, 60), iscrowd=1, segmentation=mask)
    ground_truth = truth([annotation(BOXES[0]), crowd])
    results = [result(BOXES[0], score=0.5), result((35, 35, 20, 20), score=0.9)]
    assert coco.evaluate(ground_truth, results, "segm", evaluator=evaluator).summary["AP"] == ONE


@each_type
def test_a_class_has_the_numbers_of_its_own_evaluation(iou_type):
    annotations = [annotation(box, 1 + i % 2, (3, 7)[i // 2]) for i, box in enumerate(BOXES)]
    results = [
        result((x + 1, y, w, h), 1 + i % 2, (3, 7)[i // 2], 0.9 - 0.2 * i)
        for i, (x, y, w, h) in enumerate(BOXES)
    ] + [result((60, 60, 9, 9), 2, 7, 0.95)]
    whole = coco.evaluate(truth(annotations), results, iou_type)
    assert list(whole.per_class) == ["cat", "dog"]
    for category, name in ((3, "cat"), (7, "dog")):
        alone = coco.evaluate(
            truth(
                [a for a in annotations if a["category_id"] == category],
                categories=[(category, name)],
            ),
            [r for r in results if r["category_id"] == category],
            iou_type,
        )
        assert alone.summary == whole.per_class[name] == alone.per_class[name]
        assert 0 < alone.summary["AP"] < 1


def test_both_evaluators_agree_on_noisy_detections():
    rng = np.random.default_rng(0)
    annotations, results = [], []
    for image in (1, 2):
        for _ in range(25):
            category = int(rng.choice([3, 7]))
            x, y = rng.integers(0, 60, 2).tolist()
            w, h = rng.integers(4, 40, 2).tolist()
            annotations.append(
                annotation((x, y, w, h), image, category, iscrowd=int(rng.random() < 0.1))
            )
            dx, dy = rng.integers(0, 4, 2).tolist()
            score = round(float(rng.random()), 1)  # with ties
            results.append(result((x + dx, y + dy, w, h), image, category, score))
    for iou_type in ("bbox", "segm"):
        a, b = (
            coco.evaluate(truth(annotations), results, iou_type, evaluator=e)
            for e in coco.EVALUATORS
        )
        np.testing.assert_allclose(list(a.summary.values()), list(b.summary.values()), atol=1e-12)


def test_mask_sizes_come_from_the_mask_not_from_the_box():
    """A thin diagonal object is small by its mask, but its box is of medium size."""
    diagonal = mask_utils.encode(np.asfortranarray(np.eye(100, 120, dtype=np.uint8)))
    rle = {"size": [100, 120], "counts": diagonal["counts"].decode()}
    box = (0, 0, 100, 100)
    entry = annotation(box, segmentation=rle, area=100)
    found = {**result(box), "segmentation": rle}
    false_alarm = result(
        (60, 0, 60, 60), score=0.99
    )  # medium by its mask: no fault among the small
    assert coco.evaluate(truth([entry]), [found, false_alarm], "segm").summary["APs"] == ONE


@each_type
def test_polygons_and_uncompressed_masks_are_ground_truth_too(iou_type):
    square = [[5.0, 5.0, 25.0, 5.0, 25.0, 25.0, 5.0, 25.0]]
    column = {"size": [100, 120], "counts": [0, 2000, 10000]}  # the first 20 columns
    ground_truth = truth(
        [
            annotation((5, 5, 20, 20), segmentation=square),
            annotation((0, 0, 20, 100), image=2, segmentation=column),
        ]
    )
    results = [result((5, 5, 20, 20)), result((0, 0, 20, 100), image=2)]
    assert coco.evaluate(ground_truth, results, iou_type).summary["AP"] == ONE


def test_arguments_stay_unchanged_and_nothing_is_printed(capsys, caplog):
    caplog.set_level("INFO")
    ground_truth = truth([annotation(box) for box in BOXES])
    results = [result(box) for box in BOXES]
    before = copy.deepcopy((ground_truth, results))
    for evaluator in coco.EVALUATORS:
        for iou_type in ("bbox", "segm"):
            coco.evaluate(ground_truth, results, iou_type, evaluator=evaluator)
    assert (ground_truth, results) == before
    assert capsys.readouterr() == ("", "") and not caplog.records


def test_two_classes_of_one_name_stay_apart():
    metrics = coco.evaluate(truth([], categories=[(0, "facade"), (3, "facade")]), [], "bbox")
    assert list(metrics.per_class) == ["facade (0)", "facade (3)"]


def without(entry, key):
    return {k: v for k, v in entry.items() if k != key}


@pytest.mark.parametrize(
    "results, message",
    [
        ([result(BOXES[0], image=99)], "image id 99"),
        ([result(BOXES[0], category=4)], "category id 4.*3, 7"),
        ({"annotations": []}, "must be a list.*dict"),
        ([[1, 2, 3]], "result 0.*list"),
        ([result(BOXES[0], score=float("nan"))], "score.*nan"),
        ([{**result(BOXES[0]), "bbox": [1, 2, 3]}], "four finite numbers"),
        *[
            ([without(result(BOXES[0]), key)], f"{key!r} is missing in result 0")
            for key in ("image_id", "category_id", "score", "bbox")
        ],
    ],
)
def test_bad_results_are_named(results, message):
    with pytest.raises(ValueError, match=message):
        coco.evaluate(truth([annotation(BOXES[0])]), results, "bbox")


@pytest.mark.parametrize(
    "segmentation, message",
    [
        (box_rle(1, 1, 5, 5, size=(50, 50)), r"size \(50, 50\).*\(100, 120\)"),
        ([], "no polygon"),
        ([[1, 2, 3, 4]], "no polygon"),
        ({"size": [100, 120], "counts": [5]}, "over 5 pixels"),
        (None, "neither"),
    ],
)
def test_bad_masks_are_named(segmentation, message):
    bad = {**result(BOXES[0]), "segmentation": segmentation}
    with pytest.raises(ValueError, match=f"result 0.*{message}"):
        coco.evaluate(truth([annotation(BOXES[0])]), [bad], "segm")


@pytest.mark.parametrize("key", ["image_id", "category_id", "area", "bbox"])
def test_bad_ground_truth_is_named(key):
    bad = truth([annotation(BOXES[0])])
    bad["annotations"][0] = without(bad["annotations"][0], key)
    with pytest.raises(ValueError, match=f"{key!r} is missing in annotation"):
        coco.evaluate(bad, [], "bbox")
    with pytest.raises(ValueError, match="lacks the list 'annotations'"):
        coco.evaluate(without(bad, "annotations"), [], "bbox")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(iou_type="mask"), "'mask'.*bbox, segm"),
        (dict(evaluator="mine"), "'mine'.*faster_coco_eval, pycocotools"),
        (dict(max_detections=10), "max_detections=10.*over 10"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        coco.evaluate(truth([]), [], **options)


def test_bad_files_are_named(tmp_path):
    good, bad = tmp_path / "truth.json", tmp_path / "results.json"
    good.write_text(json.dumps(truth([annotation(BOXES[0])])))
    with pytest.raises(FileNotFoundError, match="No results file at"):
        coco.evaluate_files(good, bad)
    bad.write_text("[{")
    with pytest.raises(ValueError, match=r"results\.json' is not JSON"):
        coco.evaluate_files(good, bad)


@both
@each_type
def test_the_area_under_the_curves_is_the_ap(evaluator, iou_type):
    annotations = [annotation(box, image=1 + i % 2, category=3) for i, box in enumerate(BOXES)]
    annotations.append(annotation(BOXES[0], category=7, image=2))
    results = [result(BOXES[0]), result((42, 12, 50, 60), image=2, score=0.8)]
    results += [result(BOXES[1], category=7, score=0.7)]
    options = dict(iou_type=iou_type, evaluator=evaluator)
    summary = coco.evaluate(truth(annotations), results, **options).summary
    curves = coco.precision_recall(truth(annotations), results, **options)
    assert curves["recall"][[0, 50, 100]] == pytest.approx([0, 0.5, 1])
    for name in ("AP", "AP50", "AP75"):
        assert curves[name].shape == (101,)
        assert curves[name].mean() == pytest.approx(summary[name])
    assert 0 < summary["AP"] < summary["AP50"] < 1


def test_curves_of_nothing_are_not_numbers():
    for dataset in (truth([]), truth([], images=()), truth([], categories=())):
        curves = coco.precision_recall(dataset, [])
        assert np.isnan(curves["AP"]).all() and np.isnan(curves["AP50"]).all()
    nothing_found = coco.precision_recall(truth([annotation(BOXES[0])]), [])
    assert not nothing_found["AP"].any()
