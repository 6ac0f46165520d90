"""Where and with what a number was measured. The name of the machine is no part of it."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata

ROOT = pathlib.Path(__file__).parents[1]
_VERSIONS = (
    "python",
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "torch",
    "torchvision",
    "grain",
    "opencv-python-headless",
    "pycocotools",
    "faster-coco-eval",
)
_CODE = ("jaxseg", "pallas_kernels", "configs", "benchmarks/*.py")


def machine(*packages: str) -> dict[str, object]:
    """Date, commit, processor, driver, load, the versions of Python and of `packages`; None for what is not there."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "driver": driver(),
        "load_before": load(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def write(path: str, result: dict[str, object]) -> None:
    """The result as JSON; what JSON does not have, as text."""
    with open(path, "w") as file:
        json.dump(result, file, indent=1, default=str)
        file.write("\n")


def headline(result: Mapping[str, object]) -> str:
    """The line above a table: what `machine`, or `worker.described`, put into its result."""
    device = f"{result['device']} ({result['platform']}), " if "device" in result else ""
    driver = f", driver {result['driver']}" if result["driver"] else ""
    versions = "".join(f", {name} {result[name]}" for name in _VERSIONS if result.get(name))
    after = f", {result['load_after']} after" if "load_after" in result else ""
    return (
        f"{device}{result['cpu']} with {result['cores']} cores{driver}, {result['date']}, commit {result['commit']}"
        f"{versions}; load {result['load_before']} before{after}"
    )


def driver(file: str = "/proc/driver/nvidia/version") -> str | None:
    """The version of NVIDIA's driver; None without one."""
    try:
        text = pathlib.Path(file).read_text()
    except OSError:
        return None
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    return found and found.group()


def load() -> float:
    """Processes that ran or waited for a core in the last minute, this one's included."""
    return round(os.getloadavg()[0], 2)


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu() -> str:
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def commit() -> str | None:
    """The commit of the code, with "+ changes" if its Python files differ from it; None outside git."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", *_CODE)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head} + changes" if changed else head


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
