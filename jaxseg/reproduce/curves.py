"""The charts of training: the loss and the AP in validation of every run of a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from jaxseg.report import charts
from jaxseg.reproduce import cells
from jaxseg.reproduce.records import Run

STRETCHES = 60  # of a loss that is averaged; the lines of many runs are one band otherwise


@dataclasses.dataclass(frozen=True)
class Curves:
    """Charts, one legend for all of them, and what must be said about them."""

    charts: list[Markup]
    legend: Markup
    note: str


Logs = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]  # label -> the log of each seed
Lines = Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]  # label -> (steps, values)


def collect(runs: Mapping[str, Sequence[Run]], labels: Mapping[str, str]) -> Curves:
    """Draws every run with a log.

    Args:
      runs: row -> runs.
      labels: row -> what it is called; their order gives each its colour.
    """
    logs = {labels[name]: [run.log for run in group] for name, group in runs.items()}
    order = list(labels.values())
    losses = _series(logs, "train", "loss", 1)
    means = {label: [averaged(*line) for line in group] for label, group in losses.items()}
    top = ceiling(means)
    found = {"Training loss": (means, "loss", (None, top))}
    for key in _kinds(logs):
        percent = _series(logs, "val", key, 100)
        found[f"{cells.column_name(key)} in validation"] = percent, "percent", None
    drawn = [
        charts.lines(
            series, title=title, xlabel="step", ylabel=ylabel, ylim=ylim, order=order, legend=False
        )
        for title, (series, ylabel, ylim) in found.items()
        if series
    ]
    shown = [label for label in order if any(label in series for series, _, _ in found.values())]
    return Curves(drawn, charts.key(shown, order) if shown else Markup(), _note(losses, top))


def ceiling(series: Lines) -> float | None:
    """Up to where losses are shown: what they are after their first tenth, with room. None: all of them, or short logs.

    A training begins far above all that follows, which would be a flat line.
    """
    highest = max((max(ys) for group in series.values() for _, ys in group if ys), default=0.0)
    later = [
        y
        for group in series.values()
        for _, ys in group
        if len(ys) >= STRETCHES // 2
        for y in ys[len(ys) // 10 :]
    ]
    return 1.1 * max(later) if later and highest > 1.5 * max(later) else None


def averaged(
    xs: Sequence[float], ys: Sequence[float], stretches: int = STRETCHES
) -> tuple[list[float], list[float]]:
    """The means of a line over as many stretches of about the same number of points; a short line as it is.

    Values that are not finite count as if they were not there.
    """
    points = np.array([xs, ys], float)
    points = points[:, np.isfinite(points).all(axis=0)]
    if points.shape[1] > stretches:
        parts = np.array_split(points, stretches, axis=1)
        points = np.stack([part.mean(axis=1) for part in parts], axis=1)
    return points[0].tolist(), points[1].tolist()


def _kinds(logs: Logs) -> list[str]:
    """The AP of all kinds that are validated, the masks first: they are what this is about."""
    lines = (line for group in logs.values() for log in group for line in log)
    keys = (key for line in lines if line["split"] == "val" for key in line)
    found = dict.fromkeys(key for key in keys if key.endswith("/AP"))
    return sorted(found, key=lambda key: not key.startswith("mask"))


def _series(
    logs: Logs, split: str, key: str, factor: float
) -> dict[str, list[tuple[list[float], list[float]]]]:
    """label -> (steps, values) of each seed that has logged the number."""
    found = {
        label: [xy for log in group if (xy := _points(log, split, key, factor))[0]]
        for label, group in logs.items()
    }
    return {label: lines for label, lines in found.items() if lines}


def _points(
    log: Sequence[Mapping[str, Any]], split: str, key: str, factor: float
) -> tuple[list[float], list[float]]:
    points = [(x["step"], factor * x[key]) for x in log if x["split"] == split and key in x]
    return [x for x, _ in points], [y for _, y in points]


def _note(losses: Lines, top: float | None) -> str:
    words = []
    if any(len(xs) > STRETCHES for group in losses.values() for xs, _ in group):
        words.append(f"The loss is shown as its mean over each {STRETCHES}th part of the log.")
    words += ["The first losses are higher than its chart."] if top else []
    words += ["The report of a single run (python -m jaxseg.report) shows all."] if words else []
    return " ".join(words)
