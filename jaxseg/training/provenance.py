"""What numbers come from, besides their config: packages, the revision of this code, the command, the devices."""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

CHANGES = "+changes"
_PACKAGES = ("jaxseg", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_HERE = pathlib.Path(__file__).resolve()
_CODE = ("jaxseg", "pallas_kernels", "configs", "train.py", "eval.py")  # what a run depends on


def versions() -> dict[str, str]:
    """Versions of what the numbers of a run depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit(module: pathlib.Path = _HERE) -> str | None:
    """The git revision of the checkout that this code lies in; None without git, or if it is installed elsewhere.

    It ends in `+changes` if a file that runs depend on was edited or added since.

    Args:
      module: a file of the package; the checkout must know it, which that of a project that only has jaxseg in its
        virtual environment does not.
    """
    top = _git(module.parent, "rev-parse", "--show-toplevel")
    if top is None or _git(module.parent, "ls-files", "--error-unmatch", module.name) is None:
        return None
    revision = _git(top, "rev-parse", "HEAD")
    edited = _git(top, "status", "--porcelain", "--", *_CODE)
    return revision and revision + (CHANGES if edited else "")


def command() -> list[str]:
    """How this program was started: `["python", "train.py", "--config=..."]`."""
    return ["python", *sys.argv]


def device() -> dict[str, Any]:
    """`{"platform": "gpu", "kind": "NVIDIA H200", "count": 8, "processes": 1}`: all devices that jax has."""
    first = jax.devices()[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": jax.device_count(),
        "processes": jax.process_count(),
    }


def _git(folder: str | pathlib.Path, *arguments: str) -> str | None:
    """What git says, without taking locks that another git may want; None if it fails or does not answer."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
