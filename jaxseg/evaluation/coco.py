"""COCO's box and mask AP: the 12 numbers, over all classes and for each class.

Two interchangeable evaluators do the matching, `faster_coco_eval` (C++, several times faster, the
default) and `pycocotools` (the reference). The numbers are read from their precision and recall
arrays by the same code, which also holds for more than 100 detections an image, where pycocotools'
own summary gives -1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from jaxseg.evaluation import coco_input

EVALUATORS = ("faster_coco_eval", "pycocotools")
_AREAS = ("all", "small", "medium", "large")  # the evaluators' order


@dataclasses.dataclass(frozen=True)
class Metrics:
    """The 12 numbers (see `names`) over all classes, and the same for each class by its name, in
    the categories' order.

    -1 is COCO's "not defined": there is no ground truth of that class and size.
    """

    iou_type: str
    summary: dict[str, float]
    per_class: dict[str, dict[str, float]]


def names(max_detections: int = 100) -> tuple[str, ...]:
    """The names of the 12 numbers in COCO's order; the third recall is called after the number of
    detections.
    """
    precisions = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    return (*precisions, "AR1", "AR10", f"AR{max_detections}", "ARs", "ARm", "ARl")


def evaluate_files(
    ground_truth_json: str | os.PathLike,
    results_json: str | os.PathLike,
    iou_type: str = "bbox",
    *,
    max_detections: int = 100,
    evaluator: str = "faster_coco_eval",
) -> dict[str, float]:
    """COCO's 12 numbers of a results file against a ground-truth file.

    Args:
      ground_truth_json: a COCO annotation file.
      results_json: a COCO results file, a list of {image_id, category_id, score, bbox |
        segmentation}.
      iou_type: "bbox" or "segm".
      max_detections: detections kept per image and class; dense data needs more than COCO's 100.
      evaluator: "faster_coco_eval" or "pycocotools"; the numbers are the same.

    Returns:
      name -> number, named and ordered as in `names`. 0 where nothing was detected, -1 where there
      is no ground truth.

    Raises:
      FileNotFoundError: a file does not exist.
      ValueError: a file is not what it should be, or names unknown images or categories; an
        argument is not allowed.
    """
    check_options(iou_type, max_detections, evaluator)
    ground_truth = coco_input.read_json(ground_truth_json, "ground-truth")
    results = coco_input.read_json(results_json, "results")
    options = dict(max_detections=max_detections, evaluator=evaluator)
    return evaluate(ground_truth, results, iou_type, **options).summary


def evaluate(
    ground_truth: Mapping,
    results: Sequence[Mapping],
    iou_type: str = "bbox",
    *,
    max_detections: int = 100,
    evaluator: str = "faster_coco_eval",
) -> Metrics:
    """As `evaluate_files`, on objects in memory (which stay unchanged), with the numbers of each
    class.
    """
    options = dict(max_detections=max_detections, evaluator=evaluator)
    truth, precision, recall, thresholds = _accumulated(ground_truth, results, iou_type, **options)
    keys = names(max_detections)
    category_ids = sorted(category["id"] for category in truth["categories"])
    summary = dict(zip(keys, _twelve(precision, recall, thresholds), strict=True))
    per_class = {}
    for category, label in zip(truth["categories"], labels(truth["categories"]), strict=True):
        k = [category_ids.index(category["id"])] if category_ids and precision.shape[2] else []
        numbers = _twelve(precision[:, :, k], recall[:, k], thresholds)
        per_class[label] = dict(zip(keys, numbers, strict=True))
    return Metrics(iou_type, summary, per_class)


def precision_recall(
    ground_truth: Mapping,
    results: Sequence[Mapping],
    iou_type: str = "bbox",
    *,
    max_detections: int = 100,
    evaluator: str = "faster_coco_eval",
) -> dict[str, np.ndarray]:
    """Precision by recall, the curves under which the APs are the areas. Arguments as of `evaluate`.

    Returns:
      "recall": (101,), 0 to 1; "AP", "AP50" and "AP75": (101,) the precision there, the mean over the classes that have
      objects and, for "AP", over the IoU thresholds. The mean of a curve is the number of its name. NaN where there is
      no ground truth at all.
    """
    options = dict(max_detections=max_detections, evaluator=evaluator)
    _, precision, _, thresholds = _accumulated(ground_truth, results, iou_type, **options)
    precision = precision[:, :, :, 0, -1]  # (T, R, K)
    precision = np.where(precision > -1, precision, np.nan)
    if thresholds is None:
        thresholds = np.zeros(len(precision))
    chosen = {"AP": thresholds > -1, "AP50": np.isclose(thresholds, 0.5)}
    chosen["AP75"] = np.isclose(thresholds, 0.75)
    curves = {"recall": np.linspace(0, 1, precision.shape[1])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is NaN
        for name, index in chosen.items():
            curves[name] = np.nanmean(precision[index], axis=(0, 2))
    return curves


def labels(categories: Sequence[Mapping]) -> list[str]:
    """Class names; one that several categories share gets its id added."""
    count = Counter(str(category["name"]) for category in categories)
    return [
        str(c["name"]) if count[str(c["name"])] == 1 else f"{c['name']} ({c['id']})"
        for c in categories
    ]


def check_options(iou_type: str, max_detections: int, evaluator: str) -> None:
    """Raises a ValueError for an option that is not allowed; callers use it before they do long
    work.
    """
    if iou_type not in coco_input.IOU_TYPES:
        raise ValueError(f"iou_type={iou_type!r}: allowed are {', '.join(coco_input.IOU_TYPES)}.")
    if evaluator not in EVALUATORS:
        raise ValueError(f"evaluator={evaluator!r}: allowed are {', '.join(EVALUATORS)}.")
    if (
        isinstance(max_detections, bool)
        or not isinstance(max_detections, int)
        or max_detections <= 10
    ):
        raise ValueError(
            f"max_detections={max_detections!r}: it must be a whole number over 10, since recall at "
            "1 and at 10 detections is reported beside it (COCO uses 100)."
        )


def _accumulated(
    ground_truth: Mapping,
    results: Sequence[Mapping],
    iou_type: str,
    *,
    max_detections: int,
    evaluator: str,
) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray | None]:
    """The prepared ground truth, and the evaluators' precision (T, R, K, A, M), recall (T, K, A, M) and IoU thresholds
    (T,), None where there is nothing to measure.
    """
    check_options(iou_type, max_detections, evaluator)
    truth = coco_input.prepare_ground_truth(ground_truth, iou_type)
    detections = coco_input.prepare_results(results, truth, iou_type)
    if not truth["images"] or not truth["categories"]:
        return truth, np.full((10, 101, 0, 4, 3), -1.0), np.full((10, 0, 4, 3), -1.0), None
    match = _match_faster if evaluator == "faster_coco_eval" else _match_pycocotools
    with _quiet():
        return truth, *match(truth, detections, iou_type, max_detections)


def _twelve(
    precision: np.ndarray, recall: np.ndarray, thresholds: np.ndarray | None
) -> list[float]:
    """precision (T, R, K, A, M) and recall (T, K, A, M) of the evaluators -> the 12 numbers, with
    the last M.
    """

    def mean(values: np.ndarray) -> float:
        values = values[values > -1]
        return float(values.mean()) if values.size else -1.0

    def at(iou: float) -> np.ndarray:
        if thresholds is None:
            return precision[:0, :, :, 0, -1]
        return precision[np.isclose(thresholds, iou), :, :, 0, -1]

    return [
        mean(precision[:, :, :, 0, -1]),
        mean(at(0.5)),
        mean(at(0.75)),
        *(mean(precision[:, :, :, area, -1]) for area in range(1, len(_AREAS))),
        *(mean(recall[:, :, 0, m]) for m in range(3)),
        *(mean(recall[:, :, area, -1]) for area in range(1, len(_AREAS))),
    ]


def _match_faster(truth: dict, detections: dict, iou_type: str, max_detections: int):
    from faster_coco_eval import COCO, COCOeval_faster

    pair = [COCO(dataset, print_function=_say_nothing) for dataset in (truth, detections)]
    run = COCOeval_faster(*pair, iou_type, print_function=_say_nothing, separate_eval=True)
    return _arrays(run, max_detections)


def _match_pycocotools(truth: dict, detections: dict, iou_type: str, max_detections: int):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    pair = []
    for dataset in (truth, detections):
        pair.append(COCO())
        pair[-1].dataset = dataset
        pair[-1].createIndex()
    return _arrays(COCOeval(*pair, iou_type), max_detections)


def _arrays(run, max_detections: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    run.params.maxDets = [1, 10, max_detections]
    run.evaluate()
    run.accumulate()
    return np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"]), run.params.iouThrs


def _say_nothing(*_: object) -> None:
    pass


@contextlib.contextmanager
def _quiet():
    """Keeps the libraries' progress prints and warnings off the console."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
