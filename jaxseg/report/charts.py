"""Charts as pieces of a page: an SVG with labelled axes, and a legend of HTML beneath it that wraps on a phone.

The series of a page keep their colours: give every chart the same `order`, the labels of all series of the page.
"""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from jaxseg.report import figures

MINUS = "−"  # noqa: RUF001
POINTS = 400  # of a line; more are not seen
SMOOTHED = 60  # points of a line that is smoothed where that is asked for
VALUES = 60  # bars that have their number written at their end
_WIDE = "Ŵ"  # about as wide as a Chinese character, and hardly in a name
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
    smooth: bool = False,
    xticks: tuple[Sequence[float], Sequence[str]] | None = None,
) -> Markup:
    """A chart of lines; several (xs, ys) of one label, e.g. seeds, are thin lines of one colour.

    Args:
      series: label -> lines. Points that are not finite are gaps.
      title, xlabel, ylabel: what is shown, in words with units.
      order: all labels of the page, which gives each its colour; default: those of `series`.
      legend: whether the labels stand beneath (with one label and `legend`, they do as well).
      xlim, ylim: ends of the axes; None: as the data needs.
      log: whether y is logarithmic; points that are not positive are left out.
      smooth: shows lines of many points as their running mean, over a faint line of the points themselves.
      xticks: places and words of the ticks, where they are no plain numbers.

    Returns:
      A <figure>; without any point one that says so.
    """
    order = list(series) if order is None else list(order)
    drawn = {
        label: [_finite(xs, ys, log) for xs, ys in all_lines] for label, all_lines in series.items()
    }
    drawn = {k: [v for v in found if len(v[0])] for k, found in drawn.items()}
    drawn = {k: found for k, found in drawn.items() if found}
    if not drawn:
        return _empty(title)
    with figures.drawing() as figure:
        ax = figure.subplots()
        for label, found in drawn.items():
            color, dash = style(order.index(label))
            width = 1.8 if len(found) == 1 else 0.9
            for xs, ys in found:
                mark = dict(marker="o", ms=4) if len(xs) == 1 else {}
                if smooth and len(xs) > SMOOTHED:
                    ax.plot(*_thinned(xs, ys), color=color, lw=0.6, alpha=0.3)
                    ys = _running_mean(ys, len(xs) // 40)
                ax.plot(*_thinned(xs, ys), color=color, ls=dash, lw=width, **mark)
        if log:
            ax.set_yscale("log")
        _axes(ax, title, xlabel, ylabel)
        if xticks:
            ax.set_xticks(*xticks)
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
    names: Sequence[str] | None = None,
    order: Sequence[str] | None = None,
    legend: bool = True,
    xlim: tuple[float, float] | None = None,
    digits: int = 3,
) -> Markup:
    """Horizontal bars: one group for each name, in it one bar for each series.

    Args:
      values: label of a series -> {name: value}; a value that is missing or not finite has no bar.
      title, xlabel: what is shown.
      names: the groups from the top; default: as the series bring them.
      order: as in `lines`.
      legend: as in `lines`.
      xlim: ends of the axis of values.
      digits: decimals of the numbers at the bars' ends; many bars have none.
    """
    order = list(values) if order is None else list(order)
    if names is None:
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
            edge = dict(edgecolor=figures.PAPER, lw=0.4)
            drawn = ax.barh(offset, length, height, color=color, hatch=hatch, **edge)
            if len(names) * count <= VALUES:
                words = ["" if math.isnan(value) else f"{value:.{digits}f}" for value in length]
                ax.bar_label(drawn, words, padding=2, fontsize=8)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", length=0)
        _axes(ax, title, xlabel, "", numeric=("x",))
        ax.set_yticks(place, [_stand_in(shortened(name)) for name in names])
        if xlim:
            ax.set_xlim(*xlim)
        image = figures.svg(figure, f"{title}: {xlabel}")
    for word in map(shortened, names):
        if _stand_in(word) != word:  # they stand in this order in the image
            image = Markup(image.replace(_stand_in(word), escape(word), 1))
    return _figure(image, key(list(values), order) if legend else Markup())


def stacked(
    edges: Sequence[float],
    parts: Mapping[str, Sequence[float]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    color: int = 0,
) -> Markup:
    """A histogram whose bars are stacked of parts: the first in the full colour, the second hatched, the third empty.

    Args:
      edges: bounds of the bins; the last bin is what is beyond the last edge, the first what is under the first.
      parts: name -> one number for each bin (one more than `edges`); three parts at most.
      title, xlabel, ylabel: what is shown.
      color: the number of the series, as in `style`.
    """
    fill, _ = style(color)
    fills = (
        dict(color=fill, edgecolor=fill),
        dict(color=figures.PAPER, edgecolor=fill, hatch="/////"),
        dict(color=figures.PAPER, edgecolor=figures.INK),
    )
    place = np.arange(len(edges) + 1, dtype=float)
    base = np.zeros(len(place))
    with figures.drawing() as figure:
        ax = figure.subplots()
        for how, counts in zip(fills, parts.values(), strict=False):
            ax.bar(place, counts, 0.86, base, lw=0.8, **how)
            base = base + np.asarray(counts, float)
        ax.grid(False, axis="x")
        _axes(ax, title, xlabel, ylabel, numeric=("y",))
        ax.set_xticks(place[1:] - 0.5, [number(edge) for edge in edges])
        ax.set_ylim(0, max(1.0, 1.05 * float(base.max())))
        image = figures.svg(figure, f"{title}: {ylabel} by {xlabel}")
    css = f"var(--s{color % len(figures.SERIES)})"
    hatch = f"repeating-linear-gradient(135deg, {css} 0 1.5px, transparent 1.5px 4px)"
    looks = (f"background: {css}; color: {css}", f"background: {hatch}; color: {css}", "")
    items = (
        Markup('<li><i class="box" style="{}"></i> {} ({:,})</li>').format(
            look, name, int(sum(counts))
        )
        for look, (name, counts) in zip(looks, parts.items(), strict=False)
    )
    return _figure(image, Markup('<ul class="key">{}</ul>').format(Markup("").join(items)))


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
    """A text of one line and at most some columns wide, with an ellipsis in its middle."""
    text = " ".join(str(text).split())
    if _columns(text) <= length:
        return text
    head, tail = "", ""
    while _columns(head + text[len(head)]) <= (length - 1) // 2:
        head += text[len(head)]
    while _columns(tail + text[-len(tail) - 1]) <= (length - 1) // 2:
        tail = text[-len(tail) - 1] + tail
    return f"{head.rstrip()}…{tail.lstrip()}"


def number(value: float) -> str:
    """A number for an axis or a table: as short as it can be, 0.0005 and 12,000 included."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-").replace("-", MINUS)
    return f"{value:.4g}".replace("-", MINUS)


def _axes(
    ax: Axes, title: str, xlabel: str, ylabel: str, numeric: Sequence[str] = ("x", "y")
) -> None:
    ax.set_title(title)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    for axis in (getattr(ax, f"{name}axis") for name in numeric):
        if axis.get_scale() == "linear":
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axis.set_minor_formatter(NullFormatter())


def _columns(text: str) -> int:
    """Its width; Chinese characters and the like are as wide as two letters."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _stand_in(text: str) -> str:
    """A text as wide as this one, for matplotlib, whose font lacks wide characters and would leave too little room."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return _WIDE * wide + "n" * (len(text) - wide) if wide else text


def _figure(image: Markup, below: Markup) -> Markup:
    return Markup('<figure class="chart">{}{}</figure>').format(image, below)


def _empty(title: str) -> Markup:
    return Markup('<figure class="chart"><p><b>{}</b></p><p>Nothing to show.</p></figure>').format(
        title
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else float("nan")


def _finite(xs: Sequence[float], ys: Sequence[float], log: bool) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = np.asarray(xs, float), np.asarray(ys, float)
    good = np.isfinite(xs) & np.isfinite(ys) & ((ys > 0) | (not log))
    return xs[good], ys[good]


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of the values at most `width` places away; fewer at the ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    first, last = np.maximum(place - width, 0), np.minimum(place + width + 1, len(values))
    return (total[last] - total[first]) / (last - first)


def _thinned(xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line of at most about `POINTS` points: the least and the greatest of each stretch, so that peaks stay."""
    if len(xs) <= POINTS:
        return xs, ys
    edges = np.linspace(0, len(xs), POINTS // 2 + 1).astype(int)
    keep = {0, len(xs) - 1}
    for a, b in itertools.pairwise(edges):
        keep |= {a + int(np.argmin(ys[a:b])), a + int(np.argmax(ys[a:b]))}
    keep = sorted(keep)
    return xs[keep], ys[keep]
