"""What `benchmarks/scaling.py` measured, as it is written, shown and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks import context, lines, plots
from benchmarks.journal import Journal

_AXES = {"images": "images a call", "rois": "RoIs an image"}


class Sweep(NamedTuple):
    """What is varied."""

    call: str  # train | detect
    axis: str  # images | rois
    title: str


SWEEPS = {
    "train_images": Sweep("train", "images", "training step"),
    "detect_images": Sweep("detect", "images", "detection"),
    "train_rois": Sweep("train", "rois", "training step"),
    "detect_rois": Sweep("detect", "rois", "detection"),
}


def to_result(journal: Journal) -> dict[str, Any]:
    """As it is shown and written: the points of each sweep, and the line through them."""
    rows = dict(journal.rows)
    head = {"benchmark": "scaling", **rows.pop("context"), "load_after": context.load()}
    sweeps: dict[str, Any] = {}
    for key, row in rows.items():
        method, name, count = key.split()
        sweep = sweeps.setdefault(f"{method} {name}", {"points": []})
        sweep["points"].append({"count": int(count), **row})
    for sweep in sweeps.values():
        sweep["points"].sort(key=lambda row: row["count"])
        fastest = {row["count"]: row["fastest"] for row in measured(sweep)}
        line = lines.fit(list(fastest), list(fastest.values()))
        sweep["line"] = line._asdict() if line else None
    return head | {"unfinished": journal.unfinished, "sweeps": sweeps}


def measured(sweep: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The points that have times."""
    return [row for row in sweep["points"] if "seconds" in row]


def table(result: dict[str, Any]) -> str:
    """A line for each point, and one for each sweep, in Markdown."""
    model = "the widths of configs/small.py" if result["small"] else result["backbone"]
    text = [
        f"{result['device']} ({result['platform']}), {result['cpu']} with {result['cores']} cores, {result['date']}, "
        f"commit {result['commit']}, jax {result['jax']}; {model}, {' x '.join(result['size'])}, {result['dtype']}, "
        f"{result['batch_size']} images a call where RoIs vary; load {result['load_before']} before, "
        f"{result['load_after']} after",
        "",
        "| sweep | count | ms | fastest to slowest | ms each | line / fastest | MiB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, sweep in result["sweeps"].items():
        line = sweep["line"] and lines.Line(**sweep["line"])
        text += [_line_of(name, row, line) for row in sweep["points"]]
    text += ["", "| sweep | ms each | ms besides | largest departure |", "|---|---:|---:|---:|"]
    for name, sweep in result["sweeps"].items():
        if sweep["line"]:
            line = lines.Line(**sweep["line"])
            each, besides = (f"{1e3 * x:,.3f}" for x in (line.slope, line.intercept))
            text.append(f"| {name} | {each} | {besides} | {line.departure:.0%} |")
        else:
            text.append(f"| {name} | fewer than three points | | |")
    if result["unfinished"]:
        text += ["", f"Not everything was measured: {result['unfinished']}."]
    return "\n".join(text)


def _line_of(name: str, row: dict[str, Any], line: lines.Line | None) -> str:
    count = row["count"]
    if "seconds" not in row:
        return f"| {name} | {count} | {row.get('error')} | | | | |"
    low, high = row["fastest"], row["slowest"]
    memory = f"{row['planned_bytes'] / 2**20:,.0f}" if "planned_bytes" in row else ""
    ratio = f"{line.at(count) / low:.2f}" if line else ""
    return (
        f"| {name} | {count} | {row['seconds'] * 1e3:,.1f} | {low * 1e3:,.1f} to {high * 1e3:,.1f} "
        f"| {low * 1e3 / count:,.1f} | {ratio} | {memory} |"
    )


def draw(path: str, result: dict[str, Any]) -> None:
    """A panel for each axis; both are logarithmic, and a line that goes through zero has slope one there."""
    drawn = {name: sweep for name, sweep in result["sweeps"].items() if measured(sweep)}
    axes = [a for a in _AXES if any(_axis(name) == a for name in drawn)]
    if not axes:
        return
    with plots.png(path, len(axes)) as panels:
        for panel, axis in zip(panels, axes, strict=True):
            names = [name for name in drawn if _axis(name) == axis]
            for name, color in zip(names, plots.colors(len(names)), strict=True):
                _draw_sweep(panel, name, drawn[name], color)
            panel.set_title(f"Cost over {_AXES[axis]}")
            panel.set(xlabel=_AXES[axis], ylabel="ms a call")
            panel.legend(fontsize=8, frameon=False)


def _axis(name: str) -> str:
    return SWEEPS[name.split()[1]].axis


def _draw_sweep(panel: Any, name: str, sweep: dict[str, Any], color: Any) -> None:
    from matplotlib import ticker

    points = measured(sweep)
    counts = [row["count"] for row in points]
    low, high = ([1e3 * row[key] for row in points] for key in ("fastest", "slowest"))
    method, of = name.split()
    label = f"{SWEEPS[of].title}, {method}"
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.vlines(counts, low, high, color=color, linewidth=1)
    panel.plot(counts, low, "o", color=color, markersize=5)
    if sweep["line"]:
        line = lines.Line(**sweep["line"])
        label += f": {1e3 * line.intercept:,.3g} + {1e3 * line.slope:,.3g} n, within {line.departure:.0%}"
        dense = np.geomspace(counts[0], counts[-1], 100)
        panel.plot(dense, 1e3 * line.at(dense), "--", color=color, linewidth=1)
    panel.plot([], [], "o--", color=color, linewidth=1, markersize=5, label=label)
    panel.set_xticks(counts, [str(n) for n in counts])
    panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    panel.minorticks_off()
