"""Cityscapes' AP of instances, as its evalInstanceLevelSemanticLabeling measures it.

It differs from COCO's: there are no boxes, sizes or limits to detections; an object is met where the IoU is over, not
at, a threshold; objects under 100 pixels do not count; a detection that meets none is no fault if more of it than the
threshold lies on pixels that are not evaluated (`void` of the image), groups or such small objects; and the area under
the curve is taken by the trapezoidal rule through the points of all scores, without making precision monotonic.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from pycocotools import mask as mask_utils

from jaxseg.evaluation import coco, coco_input

NAMES = ("AP", "AP50")
MIN_PIXELS = 100  # of objects that count
OVERLAPS = np.arange(0.5, 1.0, 0.05)  # not rounded, as there


def lacks(ground_truth: Mapping) -> str:
    """What a COCO ground truth lacks to be measured as Cityscapes, in words; "" if nothing."""
    for image in ground_truth["images"]:
        if not isinstance(image.get("void"), Mapping):
            return f"`void` (the RLE of what is not evaluated) of the image {image.get('id')!r}"
    return ""


def evaluate(ground_truth: Mapping, results: Sequence[Mapping]) -> coco.Metrics:
    """Cityscapes' mask AP and AP50, over all classes and of each; the arguments stay unchanged.

    Args:
      ground_truth: a COCO dict whose images have `void`, the compressed RLE of the pixels that are not evaluated, and
        whose crowds are Cityscapes' groups. Areas are those of the masks.
      results: COCO results with `segmentation`.

    Returns:
      Metrics named as in `NAMES`. 0 where nothing was detected, -1 where there is no object of a class. The curves are
      samples at 101 recalls: their mean is the AP but for that.

    Raises:
      ValueError: as `coco.evaluate`, or an image has no `void`.
    """
    truth = coco_input.prepare_ground_truth(ground_truth, "segm")
    if missing := lacks(truth):
        raise ValueError(f"The ground truth is not one of Cityscapes: it lacks {missing}.")
    detections = coco_input.prepare_results(results, truth, "segm")
    void = {image["id"]: _void(image) for image in truth["images"]}
    objects, found = _grouped(truth), _grouped(detections)
    labels = coco.labels(truth["categories"])
    grid = np.linspace(0, 1, 101)
    aps, curves = np.full((len(labels), len(OVERLAPS)), -1.0), []
    for k, category in enumerate(truth["categories"]):
        pairs = [(objects[i, category["id"]], found[i, category["id"]], void[i]) for i in void]
        images = [_overlapping(*pair) for pair in pairs if pair[0] or pair[1]]
        for t, overlap in enumerate(OVERLAPS):
            points = _curve(images, overlap)
            aps[k, t] = -1.0 if points is None else _area(*points)
            curves.append(np.full(grid.shape, -1.0) if points is None else _sampled(*points, grid))
    summary = _two(aps)
    per_class = {label: _two(aps[[k]]) for k, label in enumerate(labels)}
    precision = np.reshape(curves, (len(labels), len(OVERLAPS), len(grid))).transpose(1, 2, 0)
    return coco.Metrics("segm", summary, per_class, coco.curves(precision))


def _two(aps: np.ndarray) -> dict[str, float]:
    """(classes, overlaps) -> AP, AP50."""
    return {"AP": coco.mean(aps), "AP50": coco.mean(aps[:, :1])}


def _void(image: Mapping) -> dict:
    try:
        return coco_input.to_rle(image["void"], int(image["height"]), int(image["width"]))
    except ValueError as error:
        raise ValueError(f"The `void` of image {image['id']!r} {error}.") from None


def _grouped(dataset: Mapping) -> dict[tuple[int, int], list[dict]]:
    """(image, category) -> annotations with a mask that is not empty."""
    found = defaultdict(list)
    for annotation in dataset["annotations"]:
        annotation["pixels"] = int(mask_utils.area(annotation["segmentation"]))
        if annotation["pixels"]:
            found[annotation["image_id"], annotation["category_id"]].append(annotation)
    return found


@dataclasses.dataclass(frozen=True)
class _Image:
    """D detections of one class in one image.

    `ious` (D, G) with the objects that count, `met` (D,) the largest one with anything annotated, `ignored` (D,) the
    share of each that lies on what is not evaluated, `scores` (D,).
    """

    ious: np.ndarray
    met: np.ndarray
    ignored: np.ndarray
    scores: np.ndarray


def _overlapping(objects: Sequence[dict], found: Sequence[dict], void: dict) -> _Image:
    small = np.array([o["pixels"] < MIN_PIXELS for o in objects], bool)
    group = np.array([o["iscrowd"] for o in objects], bool)
    area = np.array([o["pixels"] for o in objects], float)
    own = np.array([d["pixels"] for d in found], float)
    if not found:
        return _Image(np.zeros((0, np.count_nonzero(~(small | group)))), own, own, own)
    masks = [d["segmentation"] for d in found]
    regions = [*(o["segmentation"] for o in objects), void]
    # With "crowds" it is the share of the detection: that gives the number of common pixels, which is whole.
    common = np.round(mask_utils.iou(masks, regions, [1] * len(regions)) * own[:, None])
    common, on_void = common[:, :-1], common[:, -1]
    ious = common / (area + own[:, None] - common)
    # A group that is small too counts twice, as there.
    ignored = on_void + common[:, group].sum(1) + common[:, small].sum(1)
    scores = np.array([d["score"] for d in found], float)
    return _Image(ious[:, ~(small | group)], ious.max(1, initial=0.0), ignored / own, scores)


def _curve(images: Sequence[_Image], overlap: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Recall, ascending from 0, and precision at each score that there is; None without objects."""
    total = sum(image.ious.shape[1] for image in images)
    if not total:
        return None
    right, wrong = [], []
    for image in images:
        for meets in (image.ious > overlap).T:
            best, *others = np.sort(image.scores[meets])[::-1] if meets.any() else (None,)
            right += [] if best is None else [best]
            wrong += others
        wrong += image.scores[(image.met <= overlap) & (image.ignored <= overlap)].tolist()
    scores = -np.array(right + wrong, float)
    order = np.argsort(scores, kind="stable")
    correct = np.cumsum(order < len(right))
    last = np.append(scores[order][1:] != scores[order][:-1], True)[: len(order)]  # of its score
    count = np.flatnonzero(last) + 1
    correct = correct[last]
    return np.append(0.0, correct / total), np.append(1.0, correct / count)


def _area(recall: np.ndarray, precision: np.ndarray) -> float:
    return float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2))


def _sampled(recall: np.ndarray, precision: np.ndarray, grid: np.ndarray) -> np.ndarray:
    return np.interp(grid, recall, precision, right=0.0)
