"""LVIS' AP: as COCO's, with classes that are annotated in some of the images only.

Gupta et al., LVIS: a dataset for large vocabulary instance segmentation, CVPR 2019, and the code of its evaluation. In
an image a detection counts only if its class has objects there or is known to be absent (`neg_category_ids`); where not
all objects of a class are annotated (`not_exhaustive_category_ids`) one that meets none is no fault. Detections are the
best of an image over all classes. Classes are rare, common or frequent by the images that they are in for training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from jaxseg.evaluation import coco, coco_input

GROUPS = {"r": "rare", "c": "common", "f": "frequent"}  # `frequency` of a category
_OF_IMAGES = ("neg_category_ids", "not_exhaustive_category_ids")


def names(max_detections: int = 300) -> tuple[str, ...]:
    """The names of the numbers over all classes in LVIS' order; a class has all but APr, APc and APf."""
    precisions = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
    return (*precisions, f"AR{max_detections}", "ARs", "ARm", "ARl")


def lacks(ground_truth: Mapping) -> str:
    """What a COCO ground truth lacks to be measured as LVIS, in words; "" if nothing."""
    for category in ground_truth["categories"]:
        if category.get("frequency") not in GROUPS:
            return f"`frequency` (r, c or f) of the category {category.get('name')!r}"
    for image in ground_truth["images"]:
        for key in _OF_IMAGES:
            if not isinstance(image.get(key), Sequence):
                return f"`{key}` of the image {image.get('id')!r}"
    return ""


def evaluate(
    ground_truth: Mapping,
    results: Sequence[Mapping],
    iou_type: str = "segm",
    *,
    max_detections: int = 300,
    area_from: str = "mask",
) -> coco.Metrics:
    """LVIS' numbers, by faster-coco-eval; the arguments stay unchanged.

    Args:
      ground_truth: LVIS v1's annotations: a COCO dict with `frequency` of the categories, and the lists
        `neg_category_ids` and `not_exhaustive_category_ids` of the images. `iscrowd` is not looked at: LVIS has none.
      results: COCO results.
      iou_type: "bbox", "segm" or "boundary".
      max_detections: detections kept per image: the best over all classes.
      area_from: as of `coco.evaluate_files`. The `lvis` package takes the box's area where results have both.

    Returns:
      Named as in `names`; 0 where nothing was detected, -1 where there is no ground truth.

    Raises:
      ValueError: as `coco.evaluate`, or the ground truth is not that of LVIS; what it lacks is named.
    """
    coco.check_options(iou_type, max_detections, coco.EVALUATORS[0], area_from)
    truth = coco_input.prepare_ground_truth(ground_truth, iou_type)
    if missing := lacks(truth):
        raise ValueError(f"The ground truth is not one of LVIS: it lacks {missing}.")
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
    chosen = considered(results, truth, max_detections)
    detections = coco_input.prepare_results(results, truth, iou_type, area_from, chosen)
    precision, recall = _matched(truth, detections, iou_type, max_detections)
    categories = truth["categories"]
    group = np.array([category["frequency"] for category in categories])
    numbers = dict(zip(names()[:6], coco.averages(precision), strict=True))
    numbers |= {f"AP{key}": coco.mean(precision[:, :, group == key, 0]) for key in GROUPS}
    numbers |= _recalls(recall, max_detections)
    per_class = {}
    for k, label in enumerate(coco.labels(categories)):
        found = dict(zip(names()[:6], coco.averages(precision[:, :, [k]]), strict=True))
        per_class[label] = found | _recalls(recall[:, [k]], max_detections)
    return coco.Metrics(iou_type, numbers, per_class, coco.curves(precision[..., 0]))


def considered(results: Sequence[Mapping], truth: Mapping, max_detections: int) -> list[int]:
    """Positions of the results that count: the best of each image over all classes, and of them those of classes whose
    presence or absence in the image is known.

    Raises:
      ValueError: the results are no list, or one of them lacks a key or is of an unknown image or category.
    """
    images = {image["id"]: image for image in truth["images"]}
    categories = {category["id"]: category for category in truth["categories"]}
    known = {i: set(image["neg_category_ids"]) for i, image in images.items()}
    for annotation in truth["annotations"]:
        known[annotation["image_id"]].add(annotation["category_id"])
    of_image = defaultdict(list)
    for index, entry in enumerate(coco_input.check_list(results)):
        coco_input.check_result(entry, images, categories, f"result {index}")
        of_image[entry["image_id"]].append(index)
    chosen = []
    for image, indices in of_image.items():
        best = sorted(indices, key=lambda index: -results[index]["score"])[:max_detections]
        chosen += [index for index in best if results[index]["category_id"] in known[image]]
    return sorted(chosen)


def _matched(
    truth: dict, detections: dict, iou_type: str, max_detections: int
) -> tuple[np.ndarray, np.ndarray]:
    """precision (T, R, K, A) and recall (T, K, A), classes in the order of the ground truth.

    One class at a time, in the images that it is found or annotated in: all 1,203 classes in all 19,809 images of LVIS
    at once would be 24 million pairs for the evaluator, nearly all of them empty.
    """
    count = len(truth["categories"])
    precision, recall = np.full((10, 101, count, 4), -1.0), np.full((10, count, 4), -1.0)
    images = {image["id"]: image for image in truth["images"]}
    objects, found = _by_class(truth), _by_class(detections)
    for k, category in enumerate(truth["categories"]):
        pair = objects[category["id"]], found[category["id"]]
        if not pair[0]:  # without objects it has no AP
            continue
        ids = {annotation["image_id"] for part in pair for annotation in part}
        common = {"images": [images[i] for i in sorted(ids)], "categories": [category]}
        datasets = [common | {"annotations": part} for part in pair]
        with coco.quiet():
            run = coco.faster(*datasets, iou_type, lvis_style=True, separate_eval=True)
            run.params.maxDets = [max_detections]
            run.evaluate()
            run.accumulate()
        precision[:, :, k] = np.asarray(run.eval["precision"])[:, :, 0, :, -1]
        recall[:, k] = np.asarray(run.eval["recall"])[:, 0, :, -1]
    return precision, recall


def _by_class(dataset: Mapping) -> dict[int, list[dict]]:
    found = defaultdict(list)
    for annotation in dataset["annotations"]:
        found[annotation["category_id"]].append(annotation)
    return found


def _recalls(recall: np.ndarray, max_detections: int) -> dict[str, float]:
    """recall (T, K, A) -> AR over all sizes and of each."""
    return {
        name: coco.mean(recall[..., area]) for area, name in enumerate(names(max_detections)[-4:])
    }
