"""Where the time of a program goes: a trace for xprof, the operations that took longest, and FLOPs over time."""

from __future__ import annotations

import glob
import math
import os
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import ConfigDict

from benchmarks import detector, scene, timing, trace
from benchmarks.contest import Contestant

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
PRODUCT = {"cpu": 2048}  # side of the matrices whose product shows what other devices can do


def define_flags() -> None:
    flags.DEFINE_string("profile", None, "Write a trace into this folder instead of measuring.")
    flags.DEFINE_float(
        "peak_tflops",
        None,
        "Of the device; default: the data sheet's, or that of a matrix product.",
        lower_bound=0,
    )


def train_step(name: str, config: ConfigDict, made: scene.Scene) -> str:
    """Profiles the training step of a config; returns the tables in Markdown."""
    contestant = detector.training(config, made)
    flops = 2 * detector.training_macs(config)
    return report(f"{name}, training step", contestant, flops, config.model.dtype)


def detection(name: str, config: ConfigDict, made: scene.Scene) -> str:
    """The same of detection."""
    contestant = detector.detection(config, made)
    flops = 2 * detector.detection_macs(config)
    return report(f"{name}, detection", contestant, flops, config.model.dtype)


def report(title: str, contestant: Contestant, flops: int, dtype: str) -> str:
    """Runs the contestant a few times, outside of and inside a trace.

    Raises:
      FloatingPointError: its result is not finite, so that its times say nothing.
    """
    run = contestant.run
    jax.block_until_ready(run())
    start = time.perf_counter()
    jax.block_until_ready([run() for _ in range(CALLS)])
    seconds = (time.perf_counter() - start) / CALLS
    folder = flags.FLAGS.profile
    with jax.profiler.trace(folder):
        jax.block_until_ready([run() for _ in range(CALLS)])
    if not math.isfinite(value := contestant.check()):
        raise FloatingPointError(
            f"{title}: the result is not finite ({value}): its times say nothing."
        )
    path = max(
        glob.glob(os.path.join(folder, "**", "*.xplane.pb"), recursive=True), key=os.path.getmtime
    )
    rate = utilisation(flops, seconds, *peak(dtype))
    found = trace.operations(jax.profiler.ProfileData.from_file(path).planes)
    rows = table(found, trace.parts(contestant.compiled.as_text()))
    return "\n".join([f"## {title}", "", rate, "", *rows])


def utilisation(flops: int, seconds: float, peak: float, of: str) -> str:
    """Model FLOPs over the time, and of the `peak` in TFLOP/s, of which `of` says what it is."""
    rate = flops / seconds / 1e12
    return (
        f"{seconds * 1e3:.1f} ms, {flops / 1e9:,.1f} GFLOPs of convolutions and matrix products: {rate:.3g} TFLOP/s, "
        f"{rate / peak:.1%} of {peak:.3g} ({of})."
    )


def peak(dtype: str) -> tuple[float, str]:
    """TFLOP/s that the device could do, and who says so."""
    if flags.FLAGS.peak_tflops:
        return flags.FLAGS.peak_tflops, "--peak_tflops"
    known = peak_tflops(jax.devices()[0].device_kind, dtype)
    if known is not None:
        return known, "the data sheet"
    size = PRODUCT.get(jax.devices()[0].platform, 8192)
    return product_tflops(size, dtype), f"a product of {size} x {size} matrices, just now"


def peak_tflops(device_kind: str, dtype: str) -> float | None:
    for name, peaks in PEAK_TFLOPS.items():
        if device_kind.startswith(name):
            return peaks.get(dtype)
    return None


def product_tflops(size: int, dtype: str) -> float:
    """The fastest of some products of square matrices: what is left of the device when others use it, too."""
    matrix = jnp.ones((size, size), dtype)
    multiply = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    call = timing.timed(lambda: multiply(matrix, matrix), jax.block_until_ready, least=0.1)
    return 2 * size**3 / min(timing.seconds_a_call(call) for _ in range(5)) / 1e12


def table(seconds: dict[str, float], names: Mapping[str, str]) -> list[str]:
    """The ten largest; `names` say what part of the model an operation belongs to."""
    total = sum(seconds.values())
    largest = sorted(seconds.items(), key=lambda item: -item[1])[:TOP]
    lines = ["| operation | part of the model | ms a call | share |", "|---|---|---:|---:|"]
    lines += [
        f"| `{n}` | {names.get(n, '')} | {s / CALLS * 1e3:.2f} | {s / total:.1%} |"
        for n, s in largest
    ]
    rest = total - sum(s for _, s in largest)
    others = len(seconds) - len(largest)
    lines.append(f"| {others:,} others | | {rest / CALLS * 1e3:.2f} | {rest / total:.1%} |")
    return [*lines, f"| all | | {total / CALLS * 1e3:.2f} | |"]
