"""A benchmark's work in a second process, which may crash or run out of memory and has an environment of its own."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

import jax
from absl import flags

from benchmarks import context
from benchmarks.journal import Journal, supervise

# glibc gives every large block back to the system and takes it anew, page by page; both programs are spared that. In
# one arena for all threads, because those of other threads than the main one give back whatever the rest says.
_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**28),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def environment() -> dict[str, str]:
    """Memory as it is needed, so that torch and jax both find some; torch uses as many threads as there are cores."""
    cores = str(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    chosen = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "OMP_NUM_THREADS": cores, **_MALLOC}
    return {**chosen, **os.environ}


def supervised(module: str) -> Journal:
    """Runs `python -m benchmarks.MODULE` with this program's arguments and `--journal`, until it is done or breaks."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "journal")
        command = [sys.executable, "-m", f"benchmarks.{module}", *sys.argv[1:]]
        journal = supervise(
            [*command, f"--journal={path}"],
            path,
            stall_seconds=flags.FLAGS.stall_seconds,
            env=environment(),
        )
    if "context" not in journal.rows:
        sys.exit(f"Nothing was measured: {journal.unfinished}.")
    return journal


def described(*packages: str) -> dict[str, Any]:
    """The context of a result: machine, device, versions."""
    device = jax.devices()[0]
    names = ("jax", "jaxlib", "flax", "numpy", "torch", "torchvision", *packages)
    return {
        **context.machine(*names),
        "platform": device.platform,
        "device": device.device_kind,
        "platform_version": device.client.platform_version,
    }
