"""What processes hold, from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
import pathlib
from typing import NamedTuple

_PROC = pathlib.Path("/proc")


class Held(NamedTuple):
    """By one process; zeros if it has ended."""

    resident: int  # bytes in memory, shared ones included
    open_files: int
    threads: int


def held(pid: int) -> Held:
    try:
        status = (_PROC / str(pid) / "status").read_text()
        files = len(os.listdir(_PROC / str(pid) / "fd"))
    except OSError:
        return Held(0, 0, 0)
    numbers = dict(line.split(":", 1) for line in status.splitlines())
    kilobytes = int(numbers.get("VmRSS", "0 kB").split()[0])
    return Held(1024 * kilobytes, files, int(numbers["Threads"]))


def descendants(pid: int) -> list[int]:
    """Its children, and theirs."""
    found = []
    for task in _PROC.glob(f"{pid}/task/*/children"):
        with contextlib.suppress(OSError):  # ended meanwhile
            found += map(int, task.read_text().split())
    return [*found, *(x for child in found for x in descendants(child))]
