"""Pairs of detections and objects, on rectangles whose overlaps are known."""

import numpy as np
import pytest
from made_runs import SIZE, rle

from jaxseg.report import analysis


def entry(box, category=1, image=1, **more):
    return dict(image_id=image, category_id=category, bbox=box, segmentation=rle(*box), **more)


def truth(*annotations, images=(1,)):
    return dict(
        images=[dict(id=i, height=SIZE[0], width=SIZE[1]) for i in images],
        categories=[dict(id=i, name=f"class {i}") for i in (1, 2, 3)],
        annotations=[dict(a, iscrowd=a.get("iscrowd", 0)) for a in annotations],
    )


def paired(ground_truth, results, score=0.0):
    (image,) = analysis.images(ground_truth, results)
    return image, analysis.assign(image, score)


A, B = [0, 0, 20, 20], [40, 0, 20, 20]


def test_the_right_class_comes_first_and_then_another():
    ground_truth = truth(entry(A, 1), entry(B, 2))
    results = [entry(A, 2, score=0.9), entry(A, 1, score=0.8), entry(B, 3, score=0.7)]
    _, pairs = paired(ground_truth, results)
    assert pairs.right == [(1, 0, 1.0)]  # though the wrong class has the higher score
    assert pairs.wrong == [(2, 1, 1.0)]
    assert (pairs.missed, pairs.background) == ([], [0])


def test_a_detection_has_one_object_and_an_object_one_detection():
    ground_truth = truth(entry(A), entry([3, 0, 20, 20]))
    results = [entry([1, 0, 20, 20], score=s) for s in (0.9, 0.8, 0.7)]
    _, pairs = paired(ground_truth, results)
    assert [(d, g) for d, g, _ in pairs.right] == [
        (0, 0),
        (1, 1),
    ]  # the first takes what it overlaps most
    assert pairs.background == [2]


def test_an_iou_of_a_half_is_enough_and_less_is_not():
    half, less = entry([0, 0, 20, 10], score=0.9), entry([0, 0, 19, 10], score=0.9)
    assert paired(truth(entry(A)), [half])[1].right == [(0, 0, 0.5)]
    _, pairs = paired(truth(entry(A)), [less])
    assert (pairs.right, pairs.missed, pairs.background) == ([], [0], [0])


def test_detections_on_crowds_and_under_the_score_do_not_count():
    crowd = entry([0, 0, 40, 40], iscrowd=1)
    box_only = {**entry(B, iscrowd=1), "segmentation": None}
    results = [
        entry(A, score=0.9),
        entry([42, 2, 10, 10], score=0.8),
        entry([0, 45, 9, 9], score=0.3),
    ]
    image, pairs = paired(truth(crowd, box_only), results, score=0.3)
    assert len(image.truth) == 0 and pairs.background == [2]
    assert paired(truth(crowd, box_only), results, score=0.31)[1].background == []


def test_quality_is_the_panoptic_quality():
    ground_truth = truth(entry(A), entry(B), entry([0, 30, 20, 20]))
    results = [
        entry(A, score=0.9),
        entry([40, 0, 20, 16], score=0.8),
        entry([0, 30, 20, 20], 2, score=0.7),
    ]
    results.append(entry([30, 40, 9, 9], score=0.6))
    # Right: IoU 1 and 0.8; one object lacks (it has another class), two detections are too many.
    assert paired(ground_truth, results)[1].quality == pytest.approx(1.8 / (2 + 0.5 * 1 + 0.5 * 2))
    assert np.isnan(paired(truth(), [])[1].quality)
    assert paired(truth(), results[:1])[1].quality == 0


def test_confusion_and_sizes_count_every_object_once():
    ground_truth = truth(entry(A, 1), entry(B, 2), entry([0, 30, 10, 10], 3))
    results = [entry(A, 1, score=0.9), entry(B, 1, score=0.8), entry([60, 40, 9, 9], 2, score=0.7)]
    image, pairs = paired(ground_truth, results)
    wanted = [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]]
    assert analysis.confusion([image], [pairs], 3).tolist() == wanted
    sides, states = analysis.outcomes([image], [pairs])
    assert sides.tolist() == [20, 20, 10]
    assert states.tolist() == [analysis.FOUND, analysis.OTHER_CLASS, analysis.MISSED]


def test_the_best_score_has_the_best_f1():
    rng = np.random.default_rng(0)
    boxes = [[2 + 8 * i, 2 + 8 * j, 6, 6] for i in range(8) for j in range(6)]
    annotations = [entry(box) for box in boxes[::2]]
    results = [
        entry(b, score=float(s)) for b, s in zip(boxes, rng.uniform(size=len(boxes)), strict=True)
    ]
    for k, result in enumerate(results):
        result["score"] = result["score"] * 0.5 + (0.5 if k % 2 == 0 and k % 3 else 0)
    images = analysis.images(truth(*annotations), results)
    score, numbers = analysis.best_score(images)
    tried = {s: analysis.best_score(images, s)[1]["f1"] for s in analysis.SCORES}
    assert numbers["f1"] == max(tried.values()) == tried[score]
    hits = sum(len(analysis.assign(i, score).right) for i in images)
    kept = sum(r["score"] >= score for r in results)
    assert numbers["precision"] == pytest.approx(hits / kept)
    assert numbers["recall"] == pytest.approx(hits / len(annotations))


def test_without_detections_or_objects_there_are_numbers_all_the_same():
    score, numbers = analysis.best_score(analysis.images(truth(entry(A)), []))
    assert (score, numbers) == (0.5, dict(f1=0, precision=0, recall=0))
    assert analysis.confusion([], [], 2).sum() == 0
    assert len(analysis.outcomes([], [])[0]) == 0


def test_results_of_unknown_images_and_classes_are_left_out():
    results = [entry(A, image=7, score=0.9), entry(A, category=9, score=0.9)]
    image, _ = paired(truth(entry(A)), results)
    assert len(image.scores) == 0
