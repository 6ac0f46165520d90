"""Charts as pieces of a page: an SVG with labelled axes, and a legend of HTML beneath it that wraps on a phone.

The series of a page keep their colours: give every chart the same `order`, the labels of all series of the page.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jaxseg.report import figures

MINUS = "−"  # noqa: RUF001
POINTS = 400  # of a line; more are not seen
_DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_CSS_DASHES = ("", "5 2", "1.5 1.5", "6 2 1.5 2")


def lines(
    series: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    order: Sequence[str] | None = None,
    legend: bool = True,
    xlim: tuple[float, float] | None = None,
    ylim: tuple[float | None, float | None] | None = None,
    log: bool = False,
) -> Markup:
    """A chart of lines; several (xs, ys) of one label, e.g. seeds, are thin lines of one colour.

    Args:
      series: label -> lines. Points that are not finite are gaps.
      title, xlabel, ylabel: what is shown, in words with units.
      order: all labels of the page, which gives each its colour; default: those of `series`.
      legend: whether the labels stand beneath (with one label and `legend`, they do as well).
      xlim, ylim: ends of the axes; None: as the data needs.
      log: whether y is logarithmic; points that are not positive are left out.

    Returns:
      A <figure>; without any point one that says so.
    """
    order = list(series) if order is None else list(order)
    drawn = {
        label: [_thinned(xs, ys, log) for xs, ys in all_lines]
        for label, all_lines in series.items()
    }
    drawn = {k: [v for v in found if len(v[0])] for k, found in drawn.items()}
    drawn = {k: found for k, found in drawn.items() if found}
    if not drawn:
        return _empty(title)
    with figures.drawing() as figure:
        ax = figure.subplots()
        for label, found in drawn.items():
            color, dash = style(order.index(label))
            single = len(found) == 1
            for xs, ys in found:
                marker = "o" if len(xs) == 1 else None
                width = 1.8 if single else 0.9
                ax.plot(xs, ys, color=color, ls=dash, lw=width, marker=marker, ms=4)
        if log:
            ax.set_yscale("log")
        _axes(ax, title, xlabel, ylabel)
        if xlim:
            ax.set_xlim(*xlim)
        if ylim:
            ax.set_ylim(*ylim)
        image = figures.svg(figure, f"{title}: {ylabel} by {xlabel}")
    return _figure(image, key(list(drawn), order) if legend else Markup())


def bars(
    values: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    xlabel: str,
    order: Sequence[str] | None = None,
    legend: bool = True,
    xlim: tuple[float, float] | None = None,
) -> Markup:
    """Horizontal bars: one group for each name, in it one bar for each series.

    Args:
      values: label of a series -> {name: value}; a value that is missing or not finite has no bar. The names of the
        first series come first, from the top.
      title, xlabel: what is shown.
      order: as in `lines`.
      legend: as in `lines`.
      xlim: ends of the axis of values.
    """
    order = list(values) if order is None else list(order)
    names = list(dict.fromkeys(name for found in values.values() for name in found))
    if not names:
        return _empty(title)
    count = len(values)
    place = np.arange(len(names), dtype=float)
    height = 0.8 / count
    with figures.drawing(70 + len(names) * max(17, 7 * count + 6)) as figure:
        ax = figure.subplots()
        for i, (label, found) in enumerate(values.items()):
            color, dash = style(order.index(label))
            length = np.array([_number(found.get(name)) for name in names])
            offset = place - 0.4 + (i + 0.5) * height
            hatch = None if dash == "solid" else "////"
            ax.barh(
                offset, length, height, color=color, hatch=hatch, edgecolor=figures.PAPER, lw=0.4
            )
        ax.set_yticks(place, [shortened(name) for name in names])
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", length=0)
        _axes(ax, title, xlabel, "")
        if xlim:
            ax.set_xlim(*xlim)
        image = figures.svg(figure, f"{title}: {xlabel}")
    return _figure(image, key(list(values), order) if legend else Markup())


def style(index: int) -> tuple[str, object]:
    """(colour, dashes) of the series `index` of a page: another colour for each, and then other dashes."""
    colors = len(figures.SERIES)
    return figures.SERIES[index % colors], _DASHES[index // colors % len(_DASHES)]


def key(labels: Sequence[str], order: Sequence[str] | None = None) -> Markup:
    """The legend: a list of labels, each with a piece of its line."""
    order = list(labels) if order is None else list(order)
    items = []
    for label in labels:
        index = order.index(label)
        color = f"var(--s{index % len(figures.SERIES)})"
        dash = _CSS_DASHES[index // len(figures.SERIES) % len(_CSS_DASHES)]
        line = f'<line x1="0" y1="4" x2="22" y2="4" stroke="{color}" stroke-width="4" stroke-dasharray="{dash}"/>'
        items.append(
            f'<li><svg width="22" height="8" aria-hidden="true">{line}</svg> {escape(label)}</li>'
        )
    return Markup(f'<ul class="key">{"".join(items)}</ul>')


def shortened(text: str, length: int = 22) -> str:
    """A text of one line and at most some characters, with an ellipsis in its middle."""
    text = " ".join(str(text).split())
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half].rstrip()}…{text[-half:].lstrip()}"


def number(value: float) -> str:
    """A number for an axis or a table: as short as it can be, 0.0005 and 12,000 included."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-").replace("-", MINUS)
    return f"{value:.4g}".replace("-", MINUS)


def _axes(ax: Axes, title: str, xlabel: str, ylabel: str) -> None:
    ax.set_title(title)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    for axis in (ax.xaxis, ax.yaxis):
        if axis.get_scale() == "linear" and not _named(axis):
            axis.set_major_locator(MaxNLocator(5))
        if not _named(axis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
            axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def _named(axis) -> bool:
    """Whether its ticks are words."""
    return type(axis.get_major_formatter()).__name__ == "FixedFormatter"


def _figure(image: Markup, below: Markup) -> Markup:
    return Markup('<figure class="chart">{}{}</figure>').format(image, below)


def _empty(title: str) -> Markup:
    return Markup('<figure class="chart"><p><b>{}</b></p><p>Nothing to show.</p></figure>').format(
        title
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else float("nan")


def _thinned(xs: Sequence[float], ys: Sequence[float], log: bool) -> tuple[np.ndarray, np.ndarray]:
    """A line of at most about `POINTS` points: the least and the greatest of each stretch, so that peaks stay."""
    xs, ys = np.asarray(xs, float), np.asarray(ys, float)
    good = np.isfinite(xs) & np.isfinite(ys) & ((ys > 0) | (not log))
    xs, ys = xs[good], ys[good]
    if len(xs) <= POINTS:
        return xs, ys
    edges = np.linspace(0, len(xs), POINTS // 2 + 1).astype(int)
    keep = {0, len(xs) - 1}
    for a, b in itertools.pairwise(edges):
        keep |= {a + int(np.argmin(ys[a:b])), a + int(np.argmax(ys[a:b]))}
    keep = sorted(keep)
    return xs[keep], ys[keep]
