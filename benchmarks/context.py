"""Where and with what a number was measured."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import platform
import subprocess
from importlib import metadata

ROOT = pathlib.Path(__file__).parents[1]
_CODE = ("jaxseg", "pallas_kernels", "configs", "benchmarks/*.py")


def machine(*packages: str) -> dict[str, object]:
    """Date, commit, processor, load, and the versions of Python and of `packages`; None for those not installed."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "load_before": load(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def write(path: str, result: dict[str, object]) -> None:
    """The result as JSON; what JSON does not have, as text."""
    with open(path, "w") as file:
        json.dump(result, file, indent=1, default=str)
        file.write("\n")


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
