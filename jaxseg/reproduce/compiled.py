"""Where the programs of a table keep what XLA has compiled, so that the second seed need not compile it again."""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform
from collections.abc import Mapping

CACHE = "JAX_COMPILATION_CACHE_DIR"
FOLDER = ".compiled"


def environment(folder: pathlib.Path, current: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variable that names the cache, in the table's work directory; {} where the user has set it.

    Machines with other processors have caches of their own: what was compiled for one's instructions does not run on
    all. A half-written entry, after a kill, is passed over by jax, and compiled anew.
    """
    return {} if CACHE in current else {CACHE: os.fspath(folder.absolute() / FOLDER / _processor())}


def _processor() -> str:
    """A name for this kind of processor."""
    told = platform.machine(), platform.processor()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        told += tuple(
            sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))})
        )
    except OSError:
        told += (platform.node(),)  # not Linux: each machine for itself
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]
