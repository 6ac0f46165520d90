"""The chart of differences: of each row the mean, its interval and its pairs, and what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from jaxseg.report import charts, figures
from jaxseg.reproduce import cells


def chart(found: Mapping[str, Any], key: str, order: Sequence[str]) -> Markup | None:
    """Draws the differences in one metric; None if no row has one.

    A point is the mean over the pairs and its line the 95 % interval; small points are the pairs, and a hollow diamond
    is the published difference.

    Args:
      found: the content of results.json.
      key: the metric, e.g. "mask/AP".
      order: the labels of all rows of the page, which gives each its colour.
    """
    rows = [row for row in found["rows"] if _drawable(row, key)]
    if not rows:
        return None
    title = f"{cells.column_name(key)}: difference to the baseline"
    with figures.drawing(80 + 34 * len(rows)) as figure:
        ax = figure.subplots()
        ax.axvline(0, color=figures.INK, lw=1)
        for i, row in enumerate(rows):
            color, _ = charts.style(order.index(row["label"]))
            _draw(ax, i, row, key, color, pairs(found, row, key))
        ax.set_yticks(range(len(rows)), [charts.shortened(row["label"]) for row in rows])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", length=0)
        ax.set_title(title)
        ax.set_xlabel("points of percent")
        ax.xaxis.set_major_locator(MaxNLocator(5))
        image = figures.svg(figure, title)
    return Markup('<figure class="chart">{}<figcaption>{}</figcaption></figure>').format(
        image, escape(_caption(rows, key))
    )


def pairs(found: Mapping[str, Any], row: Mapping[str, Any], key: str) -> list[float]:
    """The differences of a row to its baseline, one for each seed that both have."""
    by_name = {other["name"]: other for other in found["rows"]}
    ours, theirs = (
        {run["seed"]: run["metrics"].get(key) for run in r["runs"]}
        for r in (row, by_name[row["difference"]["baseline"]])
    )
    return [
        ours[seed] - theirs[seed]
        for seed in ours
        if ours[seed] is not None and theirs.get(seed) is not None
    ]


def _drawable(row: Mapping[str, Any], key: str) -> bool:
    return bool(row["difference"] and row["difference"]["metrics"].get(key))


def _draw(
    ax: Any, place: int, row: Mapping[str, Any], key: str, color: str, seeds: list[float]
) -> None:
    pair, published = row["difference"]["metrics"][key], row["difference"]["published"].get(key)
    if pair["low"] is not None:
        ax.plot([100 * pair["low"], 100 * pair["high"]], [place, place], color=color, lw=2)
    ax.plot([100 * pair["mean"]], [place], "o", color=color, ms=8)
    if len(seeds) > 1:
        ax.plot([100 * s for s in seeds], [place + 0.22] * len(seeds), "o", color=color, ms=3.5)
    if published is not None:
        face = {"markerfacecolor": "none", "markeredgecolor": figures.INK, "markeredgewidth": 1.4}
        ax.plot([published], [place - 0.22], "D", ms=6, **face)


def _caption(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    pair_counts = {row["difference"]["metrics"][key]["count"] for row in rows}
    words = [
        "Large point: the mean of the pairs" if max(pair_counts) > 1 else "Point: the one pair"
    ]
    if max(pair_counts) > 1:
        words.append("line: its 95 % interval")
        words.append("small points: the pairs")
    if any(key in row["difference"]["published"] for row in rows):
        words.append("hollow diamond: the published difference")
    return "; ".join(words) + "."
