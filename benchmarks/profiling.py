"""Where the time of a program goes: a trace for xprof, the operations that took longest, and FLOPs over time."""

from __future__ import annotations

import collections
import glob
import os
import time
from collections.abc import Callable
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from benchmarks import detector, scene

TOP = 10
CALLS = 3  # in a trace
# Dense peaks of the data sheets, TFLOP/s, by compute dtype; float32 products run as TF32 on these GPUs.
PEAK_TFLOPS = {
    "NVIDIA H200": {"bfloat16": 989.0, "float32": 494.0},
    "NVIDIA H100": {"bfloat16": 989.0, "float32": 494.0},
    "NVIDIA A100": {"bfloat16": 312.0, "float32": 156.0},
    "TPU v5 lite": {"bfloat16": 197.0},
    "TPU v6 lite": {"bfloat16": 918.0},
}


def define_flags() -> None:
    flags.DEFINE_string("profile", None, "Write a trace into this folder instead of measuring.")
    flags.DEFINE_float(
        "peak_tflops", None, "Of the device; default: the data sheet's, if known.", lower_bound=0
    )


def train_step(name: str, config: ConfigDict, made: scene.Scene) -> str:
    """Profiles the training step of a config; returns the tables in Markdown."""
    contestant = detector.training(config, made)
    flops = 2 * detector.training_macs(config)
    return report(f"{name}, training step", contestant.run, flops, config.model.dtype)


def detection(name: str, config: ConfigDict, made: scene.Scene) -> str:
    """The same of detection."""
    contestant = detector.detection(config, made)
    flops = 2 * detector.detection_macs(config)
    return report(f"{name}, detection", contestant.run, flops, config.model.dtype)


def report(title: str, run: Callable[[], Any], flops: int, dtype: str) -> str:
    """Runs `run` a few times, outside of and inside a trace."""
    jax.block_until_ready(run())
    start = time.perf_counter()
    jax.block_until_ready([run() for _ in range(CALLS)])
    seconds = (time.perf_counter() - start) / CALLS
    folder = flags.FLAGS.profile
    with jax.profiler.trace(folder):
        jax.block_until_ready([run() for _ in range(CALLS)])
    path = max(
        glob.glob(os.path.join(folder, "**", "*.xplane.pb"), recursive=True), key=os.path.getmtime
    )
    return "\n".join(
        [f"## {title}", "", utilisation(flops, seconds, dtype), "", *table(operations(path))]
    )


def utilisation(flops: int, seconds: float, dtype: str) -> str:
    """Model FLOPs over the time, and of the peak where that is known."""
    rate = flops / seconds / 1e12
    text = f"{seconds * 1e3:.1f} ms, {flops / 1e9:,.1f} GFLOPs of convolutions and matrix products: {rate:.3g} TFLOP/s"
    peak = flags.FLAGS.peak_tflops or peak_tflops(jax.devices()[0].device_kind, dtype)
    if peak is None:
        return text + " (the device's peak is not known: give --peak_tflops)."
    return text + f", {rate / peak:.1%} of {peak:g}."


def peak_tflops(device_kind: str, dtype: str) -> float | None:
    for name, peaks in PEAK_TFLOPS.items():
        if device_kind.startswith(name):
            return peaks.get(dtype)
    return None


def operations(path: str) -> dict[str, float]:
    """Seconds by compiled operation, of a trace: what lies on a device's own lines, or carries `hlo_op`.

    An operation that calls others (a loop, a branch) is shown beside them, with their time.
    """
    seconds: collections.Counter[str] = collections.Counter()
    for plane in jax.profiler.ProfileData.from_file(path).planes:
        for line in plane.lines:
            on_device = plane.name.startswith("/device:") and line.name == "XLA Ops"
            for event in line.events:
                name = dict(event.stats).get("hlo_op") if not on_device else event.name
                if name:
                    seconds[str(name)] += event.duration_ns / 1e9
    return dict(seconds)


def table(seconds: dict[str, float]) -> list[str]:
    """The ten largest."""
    total = sum(seconds.values())
    largest = sorted(seconds.items(), key=lambda item: -item[1])[:TOP]
    lines = ["| operation | ms a call | share |", "|---|---:|---:|"]
    lines += [f"| `{n}` | {s / CALLS * 1e3:.2f} | {s / total:.1%} |" for n, s in largest]
    return [*lines, f"| all {len(seconds):,} | {total / CALLS * 1e3:.2f} | |"]
