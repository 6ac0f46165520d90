"""Curves of an evaluation as a picture."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxseg import atomic
from jaxseg.evaluation import coco, measure


def precision_recall(metrics: Mapping[str, coco.Metrics], path: str | os.PathLike) -> pathlib.Path:
    """Draws precision by recall, a panel for each kind of AP, a curve for each IoU threshold and their mean.

    Args:
      metrics: kind of AP -> numbers with `curves`.
      path: a .png file; it appears whole or not at all.

    Returns:
      The path.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(4.5 * len(metrics) + 1, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    for panel, (kind, numbers) in zip(panels, metrics.items(), strict=True):
        _draw(panel, numbers.curves)
        panel.set_title(f"{measure.KINDS[kind]} AP {_percent(numbers.summary['AP'])}")
        panel.set(xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
    panels[0].set_ylabel("precision")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    with atomic.replacing(path, "wb") as file:
        figure.savefig(file, format="png")
    return path


def _draw(panel, curves: Mapping[str, np.ndarray]) -> None:
    names = [f"AP{100 * iou:.0f}" for iou in coco.IOUS]
    colors = colormaps["viridis"](np.linspace(0.0, 0.9, len(names)))
    for name, color in zip(names, colors, strict=True):
        panel.plot(
            curves["recall"], curves[name], color=color, linewidth=1, label=f"IoU 0.{name[2:]}"
        )
    panel.plot(curves["recall"], curves["AP"], color="black", linewidth=2, label="mean")
    panel.grid(alpha=0.3)


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f} %"
