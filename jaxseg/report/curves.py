"""What a run logged while it trained, as charts: one for each number, in it one line for each run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from jaxseg.evaluation import measure
from jaxseg.report import charts
from jaxseg.report.folder import RunFolder

MORE, SPEED = "Gradient and matching", "Speed"
_OPTIMISATION = {
    "grad_norm": "Norm of the gradient",
    "roi_accuracy": "Accuracy of the box head's classes",
    "roi_positives": "Positive regions an image",
    "rpn_positives": "Positive anchors an image",
    "mask_weight": "Weight of the mask losses",
    "refine_accuracy": "Accuracy of the refining box head's classes",
    "refine_positives": "Positive regions an image, refined",
}
_SPEED = {
    "images_per_second": "Images a second",
    "data_wait": "Share of time waiting for data",
    "memory_gib": "Peak memory of the device, GiB",
}
_LOSSES = {
    "loss": "Total loss",
    "rpn_objectness": "RPN: objectness",
    "rpn_box": "RPN: box",
    "classification": "Box head: classification",
    "box": "Box head: box",
    "mask": "Mask head",
    "mask_auxiliary": "Mask head: auxiliary branch",
    "mask_threshold": "Mask head: thresholds",
    "mask_boundary": "Mask head: boundaries",
    "mask_binary": "Mask head: binarised mask",
    "refine_classification": "Refining box head: classification",
    "refine_box": "Refining box head: box",
    "refine_mask": "Refining mask head",
    "refine_mask_auxiliary": "Refining mask head: auxiliary branch",
    "refine_mask_threshold": "Refining mask head: thresholds",
    "refine_mask_boundary": "Refining mask head: boundaries",
    "refine_mask_binary": "Refining mask head: binarised mask",
}
_RATE = {"lr": "Learning rate"}
_VALIDATION = ("AP", "AP50", "AP75", "APr", "APc", "APf")
_HIDDEN = {"step", "split", "eta"}


def groups(runs: Mapping[str, RunFolder], order: Sequence[str]) -> list[tuple[str, list[Markup]]]:
    """(heading, charts) for validation, losses, `MORE` and `SPEED`; groups that nobody logged are left out.

    Args:
      runs: label -> run.
      order: all labels of the page.
    """
    train = {label: run.train for label, run in runs.items()}
    logged = list(dict.fromkeys(key for found in train.values() for line in found for key in line))
    losses, optimisation = (_with_stages(known, logged) for known in (_LOSSES, _OPTIMISATION))
    others = _HIDDEN | set(optimisation) | set(_SPEED) | set(losses) | set(_RATE)
    losses |= {key: key for key in logged if key not in others} | _RATE
    found = [("Validation", _validation(runs, order))]
    for heading, titles in (
        ("Losses and learning rate", losses),
        (MORE, optimisation),
        (SPEED, _SPEED),
    ):
        keys = [key for key in titles if key in logged]
        made = [
            _chart(train, key, titles[key], order, smooth=heading != SPEED and key != "lr")
            for key in keys
        ]
        found.append((heading, made))
    return [(heading, made) for heading, made in found if made]


def _with_stages(titles: Mapping[str, str], logged: Sequence[str]) -> dict[str, str]:
    """Titles, and those of the same number in each stage of a cascade: `box_1` is `box` of stage 1."""
    found = {}
    for name, title in titles.items():
        found[name] = title
        numbers = (re.fullmatch(rf"{name}_(\d+)", key) for key in logged)
        stages = sorted(int(number[1]) for number in numbers if number)
        found |= {f"{name}_{stage}": f"{title}, stage {stage}" for stage in stages}
    return found


def points(lines: Sequence[Mapping], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of a number in the lines of a log; lines without it are left out."""
    found = [
        (line["step"], line[key])
        for line in lines
        if isinstance(line.get(key), int | float) and isinstance(line["step"], int)
    ]
    return [step for step, _ in found], [value for _, value in found]


def _validation(runs: Mapping[str, RunFolder], order: Sequence[str]) -> list[Markup]:
    val = {label: run.val for label, run in runs.items()}
    logged = dict.fromkeys(key for found in val.values() for line in found for key in line)
    kinds = dict.fromkeys(key.partition("/")[0] for key in logged if "/" in key)
    keys = [f"{kind}/{name}" for kind in sorted(kinds, key=_kind_order) for name in _VALIDATION]
    percent = {
        label: [{k: 100 * v if k in keys else v for k, v in line.items()} for line in found]
        for label, found in val.items()
    }
    return [_chart(percent, key, _words(key), order, ylabel="%") for key in keys if key in logged]


def _words(key: str) -> str:
    kind, _, name = key.partition("/")
    return f"{measure.KINDS.get(kind, kind)} {name}"


def _kind_order(kind: str) -> tuple[int, str]:
    first = ("mask", "box")
    return (first.index(kind) if kind in first else len(first), kind)


def _chart(
    logs: Mapping[str, Sequence[Mapping]],
    key: str,
    title: str,
    order: Sequence[str],
    *,
    ylabel: str = "",
    smooth: bool = False,
) -> Markup:
    series = {label: [points(lines, key)] for label, lines in logs.items()}
    least = min((y for xy in series.values() for _, ys in xy for y in ys), default=0)
    return charts.lines(
        series,
        title=title,
        xlabel="step",
        ylabel=ylabel,
        order=order,
        legend=False,
        smooth=smooth,
        ylim=(0, None) if least >= 0 else None,
    )
