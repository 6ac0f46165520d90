"""What an evaluation measures: by the protocol of the data set, the APs of boxes and masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxseg.evaluation import cityscapes, coco, lvis

# Kinds of AP, as metrics.json and the log name them, in words. Every protocol has box and mask.
KINDS = {"box": "box", "mask": "mask", "boundary": "boundary", "mask_coco": "mask (COCO)"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of `config.eval`: what is measured, and how; `protocol` may still be "auto"."""

    protocol: str = "auto"
    max_detections: int = 100
    evaluator: str = "faster_coco_eval"
    boundary: bool = False
    area_from: str = "mask"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A data set's way to measure.

    Attributes:
      title: its name.
      carries: whether a ground truth has what only that of this data set has.
      lacks: ground truth -> what it lacks to be measured so, in words; "" if nothing.
      measure: (ground truth, results, settings) -> kind of AP -> Metrics.
    """

    title: str
    carries: Callable[[Mapping], bool]
    lacks: Callable[[Mapping], str]
    measure: Callable[[Mapping, Sequence[Mapping], Settings], dict[str, coco.Metrics]]


def settings(eval_config: ConfigDict) -> Settings:
    """The checked settings of `config.eval`; keys that older runs do not have are at their defaults.

    Raises:
      ValueError: a value is not allowed; key and value are named.
    """
    found = {f.name: eval_config.get(f.name, f.default) for f in dataclasses.fields(Settings)}
    made = Settings(**found)
    try:
        coco.check_options("bbox", made.max_detections, made.evaluator, made.area_from)
    except ValueError as error:
        raise ValueError(f"config.eval.{error}") from None
    allowed = ("auto", *PROTOCOLS)
    if made.protocol not in allowed:
        raise ValueError(
            f"config.eval.protocol={made.protocol!r}: allowed are {', '.join(allowed)}."
        )
    if not isinstance(made.boundary, bool):
        raise ValueError(f"config.eval.boundary={made.boundary!r}: it must be True or False.")
    if made.protocol != "auto":
        _check_together(made)
    return made


def chosen(given: Settings, ground_truth: Mapping) -> Settings:
    """Settings whose protocol fits the ground truth: "auto" is that whose fields it carries, else COCO.

    Raises:
      ValueError: the ground truth lacks what the protocol needs, or the protocol does not have what is asked for.
    """
    name, why = given.protocol, "config.eval.protocol"
    if name == "auto":
        name = next((n for n, p in PROTOCOLS.items() if p.carries(ground_truth)), "coco")
        why = "the ground truth's"
    if missing := PROTOCOLS[name].lacks(ground_truth):
        raise ValueError(
            f"The protocol {name!r} ({why}) cannot be used: the ground truth lacks {missing}. Complete it (python -m "
            "jaxseg.data.prepare makes data sets that have it), or set config.eval.protocol=coco."
        )
    made = dataclasses.replace(given, protocol=name)
    _check_together(made)
    return made


def for_source(eval_config: ConfigDict, source: Any) -> Settings:
    """The settings with which a source is measured; of one without annotations, where nothing is, those of the config.

    Raises:
      ValueError: as `settings` and `chosen`.
    """
    given = settings(eval_config)
    return chosen(given, source.coco()) if source.annotated else given


def measure(
    ground_truth: Mapping, results: Sequence[Mapping], used: Settings
) -> dict[str, coco.Metrics]:
    """Kind of AP -> its numbers and curves: "box" and "mask", and what else the settings ask for.

    Args:
      ground_truth: a COCO dict with what the protocol needs; it stays unchanged, like the results.
      results: COCO results.
      used: of `chosen`, with a protocol.

    Raises:
      ValueError: the ground truth or the results are not what they should be.
    """
    return PROTOCOLS[used.protocol].measure(ground_truth, results, used)


def groups(ground_truth: Mapping, used: Settings) -> dict[str, list[str]]:
    """Groups of classes that a table of very many of them sums up: name -> classes, as `coco.labels` has them.

    LVIS: by frequency; else by the number of objects.
    """
    categories = ground_truth["categories"]
    labels = coco.labels(categories)
    if used.protocol == "lvis":
        of = [lvis.GROUPS[category["frequency"]] for category in categories]
        return {
            g: [n for n, o in zip(labels, of, strict=True) if o == g] for g in lvis.GROUPS.values()
        }
    count = dict.fromkeys((category["id"] for category in categories), 0)
    for annotation in ground_truth["annotations"]:
        count[annotation["category_id"]] += not annotation.get("iscrowd", 0)
    bounds = {
        "no objects": (0, 0),
        "1 to 9": (1, 9),
        "10 to 99": (10, 99),
        "100 and more": (100, 1 << 62),
    }
    return {
        name: [n for n, c in zip(labels, count.values(), strict=True) if low <= c <= high]
        for name, (low, high) in bounds.items()
    }


def _check_together(used: Settings) -> None:
    """Raises a ValueError for settings that exclude each other."""
    if used.boundary and used.protocol == "cityscapes":
        raise ValueError(
            "config.eval.boundary=True: Boundary AP is defined for COCO and LVIS, not for the protocol of Cityscapes. "
            "Set it to False, or config.eval.protocol=coco."
        )
    if used.evaluator != coco.EVALUATORS[0] and used.protocol == "lvis":
        raise ValueError(
            f"config.eval.evaluator={used.evaluator!r} does not know the protocol of LVIS: set it to "
            f"{coco.EVALUATORS[0]}, or config.eval.protocol=coco."
        )


def _kinds(used: Settings) -> dict[str, str]:
    """Kind of AP -> type of IoU, as COCO and LVIS have them."""
    kinds = {"box": "bbox", "mask": "segm"}
    return kinds | {"boundary": "boundary"} if used.boundary else kinds


def _coco(truth: Mapping, results: Sequence[Mapping], used: Settings) -> dict[str, coco.Metrics]:
    options = {k: getattr(used, k) for k in ("max_detections", "evaluator", "area_from")}
    return {
        kind: coco.evaluate(truth, results, iou_type, **options)
        for kind, iou_type in _kinds(used).items()
    }


def _lvis(truth: Mapping, results: Sequence[Mapping], used: Settings) -> dict[str, coco.Metrics]:
    options = {k: getattr(used, k) for k in ("max_detections", "area_from")}
    return {
        kind: lvis.evaluate(truth, results, iou_type, **options)
        for kind, iou_type in _kinds(used).items()
    }


def _cityscapes(
    truth: Mapping, results: Sequence[Mapping], used: Settings
) -> dict[str, coco.Metrics]:
    """Masks by Cityscapes' protocol, which knows no boxes and no sizes: those, and masks too, by COCO's beside it."""
    beside = _coco(truth, results, used)
    return {
        "box": beside["box"],
        "mask": cityscapes.evaluate(truth, results),
        "mask_coco": beside["mask"],
    }


PROTOCOLS = {
    "coco": Protocol("COCO", lambda truth: False, lambda truth: "", _coco),
    "lvis": Protocol(
        "LVIS",
        lambda truth: any("frequency" in category for category in truth["categories"]),
        lvis.lacks,
        _lvis,
    ),
    "cityscapes": Protocol(
        "Cityscapes",
        lambda truth: any("void" in image for image in truth["images"]),
        cityscapes.lacks,
        _cityscapes,
    ),
}
