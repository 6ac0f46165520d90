"""What `benchmarks/host_memory.py` measured, as it is written, shown and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import plots

KINDS = ("main_bytes", "worker_bytes", "main_resident_bytes", "open_files", "threads")
_NAMES = {
    "main_bytes": "training process, MiB",
    "worker_bytes": "its workers, MiB",
    "main_resident_bytes": "training process, resident, MiB",
    "open_files": "open files",
    "threads": "threads",
}


def fits(of_samples: Mapping[str, Sequence[int]], warm_up: int) -> dict[str, dict[str, Any]]:
    """By kind, of the samples after the warm-up: first, last, smallest and largest value, and the median slope a step.

    Nothing of fewer than three samples.
    """
    steps = np.asarray(of_samples["step"])
    later = steps > warm_up
    if later.sum() < 3:
        return {}
    result = {}
    for kind in KINDS:
        values = np.asarray(of_samples[kind], float)[later]
        slope = median_slope(steps[later], values)
        result[kind] = {
            "first": values[0],
            "last": values[-1],
            "smallest": values.min(),
            "largest": values.max(),
            "slope_per_step": float(slope),
        }
    return result


def median_slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of the lines through two points at most a quarter of the range apart (after Theil 1950 and Sen 1968).

    A spike, or a fall where the allocator gives back what it had kept, changes few of them.
    """
    dx, dy = (v[None, :] - v[:, None] for v in (x, y))
    near = (dx > 0) & (dx <= max(np.ptp(x) / 4, np.diff(x).min()))
    return float(np.median(dy[near] / dx[near]))


def table(result: dict[str, Any]) -> str:
    steps = result["samples"]["step"]
    lines = [
        f"{result['cpu']} with {result['cores']} cores, {result['date']}, commit {result['commit']}, "
        f"jax {result['jax']}, grain {result['grain']}; {steps[-1]:,} steps in {result['seconds']:.0f} s, of which "
        f"the first {result['warm_up']:,} are left out",
        "",
        "| | first | last | smallest to largest | a step |",
        "|---|---:|---:|---:|---:|",
    ]
    for kind, row in result["fits"].items():
        scale, form = (2**20, ",.1f") if kind.endswith("bytes") else (1, ",.0f")
        first, last, low, high = (
            format(row[key] / scale, form) for key in ("first", "last", "smallest", "largest")
        )
        unit = "bytes" if kind.endswith("bytes") else ""
        slope = f"{row['slope_per_step']:,.3g} {unit}".strip()
        lines.append(f"| {_NAMES[kind]} | {first} | {last} | {low} to {high} | {slope} |")
    if not result["fits"]:
        lines.append(f"| fewer than three samples after {result['warm_up']:,} steps | | | | |")
    return "\n".join(lines)


def draw(path: str, result: dict[str, Any]) -> None:
    """Memory by step, a panel for the process and one for its workers, from zero so that flat looks flat."""
    of_samples = result["samples"]
    steps = np.asarray(of_samples["step"])
    with plots.png(path, 2) as panels:
        for panel, kind, color in zip(panels, KINDS, plots.colors(2), strict=False):
            panel.plot(steps, np.asarray(of_samples[kind]) / 2**20, color=color, linewidth=1.2)
            title = _NAMES[kind].removesuffix(", MiB")
            if kind in result["fits"]:
                title += f": {result['fits'][kind]['slope_per_step']:,.0f} bytes a step"
                panel.axvline(result["warm_up"], color="black", linewidth=0.8, linestyle=":")
            panel.set(title=title, xlabel="step", ylabel="MiB")
            panel.set(xlim=(0, steps[-1]))
            panel.set_ylim(bottom=0)
