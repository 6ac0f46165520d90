"""COCO's box, mask and Boundary AP: the 12 numbers, over all classes and for each class.

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
from typing import Any

import numpy as np

from jaxseg.evaluation import coco_input

EVALUATORS = ("faster_coco_eval", "pycocotools")
IOUS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))  # the evaluators' thresholds
_AREAS = ("all", "small", "medium", "large")  # the evaluators' order


@dataclasses.dataclass(frozen=True)
class Metrics:
    """The 12 numbers (see `names`) over all classes, and the same for each class by its name, in
    the categories' order.

    -1 is COCO's "not defined": there is no ground truth of that class and size.

    `curves` has precision by recall: "recall": (R,), 0 to 1; "AP50", "AP55", ... "AP95": (R,) the precision there, the
    mean over the classes that have objects; "AP": their mean. The mean of a curve is the number of its name. NaN where
    there is no ground truth at all.
    """

    iou_type: str
    summary: dict[str, float]
    per_class: dict[str, dict[str, float]]
    curves: dict[str, np.ndarray] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )


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
    area_from: str = "mask",
) -> dict[str, float]:
    """COCO's 12 numbers of a results file against a ground-truth file.

    Args:
      ground_truth_json: a COCO annotation file.
      results_json: a COCO results file, a list of {image_id, category_id, score, bbox |
        segmentation}.
      iou_type: "bbox", "segm", or "boundary": Boundary AP of masks (boundary.py).
      max_detections: detections kept per image and class; dense data needs more than COCO's 100.
      evaluator: "faster_coco_eval" or "pycocotools"; the numbers are the same.
      area_from: what tells whether a detected mask is small, medium or large: "mask", its own area; or "box", the area
        of its `bbox`, as tools have it that leave both in the results. Objects have the `area` of the annotation.

    Returns:
      name -> number, named and ordered as in `names`. 0 where nothing was detected, -1 where there
      is no ground truth.

    Raises:
      FileNotFoundError: a file does not exist.
      ValueError: a file is not what it should be, or names unknown images or categories; an
        argument is not allowed.
    """
    check_options(iou_type, max_detections, evaluator, area_from)
    ground_truth = coco_input.read_json(ground_truth_json, "ground-truth")
    results = coco_input.read_json(results_json, "results")
    options = dict(max_detections=max_detections, evaluator=evaluator, area_from=area_from)
    return evaluate(ground_truth, results, iou_type, **options).summary


def evaluate(
    ground_truth: Mapping,
    results: Sequence[Mapping],
    iou_type: str = "bbox",
    *,
    max_detections: int = 100,
    evaluator: str = "faster_coco_eval",
    area_from: str = "mask",
) -> Metrics:
    """As `evaluate_files`, on objects in memory (which stay unchanged), with the numbers of each
    class and the curves.
    """
    check_options(iou_type, max_detections, evaluator, area_from)
    truth = coco_input.prepare_ground_truth(ground_truth, iou_type)
    detections = coco_input.prepare_results(results, truth, iou_type, area_from)
    if truth["images"] and truth["categories"]:
        match = _match_faster if evaluator == "faster_coco_eval" else _match_pycocotools
        with quiet():
            precision, recall = match(truth, detections, iou_type, max_detections)
    else:
        precision, recall = np.full((10, 101, 0, 4, 3), -1.0), np.full((10, 0, 4, 3), -1.0)
    keys = names(max_detections)
    category_ids = sorted(category["id"] for category in truth["categories"])
    summary = dict(zip(keys, _twelve(precision, recall), strict=True))
    per_class = {}
    for category, label in zip(truth["categories"], labels(truth["categories"]), strict=True):
        k = [category_ids.index(category["id"])] if precision.shape[2] else []
        numbers = _twelve(precision[:, :, k], recall[:, k])
        per_class[label] = dict(zip(keys, numbers, strict=True))
    return Metrics(iou_type, summary, per_class, curves(precision[:, :, :, 0, -1]))


def precision_recall(
    ground_truth: Mapping, results: Sequence[Mapping], iou_type: str = "bbox", **options: Any
) -> dict[str, np.ndarray]:
    """`Metrics.curves`, under which the APs are the areas. Arguments as of `evaluate`."""
    return evaluate(ground_truth, results, iou_type, **options).curves


def curves(precision: np.ndarray) -> dict[str, np.ndarray]:
    """precision (T, R, K), -1 for classes without objects -> `Metrics.curves`."""
    precision = np.where(precision > -1, precision, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is NaN
        found = {"recall": np.linspace(0, 1, precision.shape[1])}
        found["AP"] = np.nanmean(precision, axis=(0, 2))
        for iou, at in zip(IOUS, precision, strict=True):
            found[f"AP{100 * iou:.0f}"] = np.nanmean(at, axis=1)
    return found


def labels(categories: Sequence[Mapping]) -> list[str]:
    """Class names; one that several categories share gets its id added."""
    count = Counter(str(category["name"]) for category in categories)
    return [
        str(c["name"]) if count[str(c["name"])] == 1 else f"{c['name']} ({c['id']})"
        for c in categories
    ]


def check_options(
    iou_type: str, max_detections: int, evaluator: str, area_from: str = "mask"
) -> None:
    """Raises a ValueError for an option that is not allowed; callers use it before they do long
    work.
    """
    if iou_type not in coco_input.IOU_TYPES:
        raise ValueError(f"iou_type={iou_type!r}: allowed are {', '.join(coco_input.IOU_TYPES)}.")
    if evaluator not in EVALUATORS:
        raise ValueError(f"evaluator={evaluator!r}: allowed are {', '.join(EVALUATORS)}.")
    if area_from not in coco_input.AREAS_FROM:
        raise ValueError(
            f"area_from={area_from!r}: allowed are {', '.join(coco_input.AREAS_FROM)}."
        )
    if (
        isinstance(max_detections, bool)
        or not isinstance(max_detections, int)
        or max_detections <= 10
    ):
        raise ValueError(
            f"max_detections={max_detections!r}: it must be a whole number over 10, since recall at "
            "1 and at 10 detections is reported beside it (COCO uses 100)."
        )


def mean(values: np.ndarray) -> float:
    """The mean of what is defined, -1 if nothing is."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def averages(precision: np.ndarray) -> list[float]:
    """precision (T, R, K, A) -> AP, AP50, AP75, APs, APm, APl."""
    return [
        mean(precision[..., 0]),
        mean(precision[IOUS.index(0.5), ..., 0]),
        mean(precision[IOUS.index(0.75), ..., 0]),
        *(mean(precision[..., area]) for area in range(1, len(_AREAS))),
    ]


def _twelve(precision: np.ndarray, recall: np.ndarray) -> list[float]:
    """precision (T, R, K, A, M) and recall (T, K, A, M) of the evaluators -> the 12 numbers, with
    the last M.
    """
    return [
        *averages(precision[..., -1]),
        *(mean(recall[:, :, 0, m]) for m in range(3)),
        *(mean(recall[:, :, area, -1]) for area in range(1, len(_AREAS))),
    ]


def _match_faster(truth: dict, detections: dict, iou_type: str, max_detections: int):
    run = faster(truth, detections, iou_type, separate_eval=True)
    return _arrays(run, max_detections)


def faster(truth: dict, detections: dict, iou_type: str, **options: Any) -> Any:
    """faster-coco-eval's evaluator of two prepared data sets."""
    from faster_coco_eval import COCO, COCOeval_faster

    pair = [COCO(dataset, print_function=_say_nothing) for dataset in (truth, detections)]
    kind, iou_type = _kind(COCOeval_faster, iou_type)
    return kind(*pair, iou_type, print_function=_say_nothing, **options)


def _match_pycocotools(truth: dict, detections: dict, iou_type: str, max_detections: int):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    pair = []
    for dataset in (truth, detections):
        pair.append(COCO())
        pair[-1].dataset = dataset
        pair[-1].createIndex()
    kind, iou_type = _kind(COCOeval, iou_type)
    return _arrays(kind(*pair, iou_type), max_detections)


def _kind(base: type, iou_type: str) -> tuple[type, str]:
    """The evaluator's class, and the type of IoU that it knows."""
    if iou_type != "boundary":
        return base, iou_type
    from jaxseg.evaluation import boundary

    return boundary.evaluator(base), "segm"


def _arrays(run: Any, max_detections: int) -> tuple[np.ndarray, np.ndarray]:
    run.params.maxDets = [1, 10, max_detections]
    run.evaluate()
    run.accumulate()
    return np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"])


def _say_nothing(*_: object) -> None:
    pass


@contextlib.contextmanager
def quiet():
    """Keeps the libraries' progress prints and warnings off the console."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
