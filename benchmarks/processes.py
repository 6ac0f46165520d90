"""What processes hold, from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
import pathlib
from typing import NamedTuple

_PROC = pathlib.Path("/proc")


class Held(NamedTuple):
    """By one process; zeros if it has ended."""

    resident: int  # bytes in memory, those of files and shared ones included
    anonymous: int  # bytes of it that are no file's: what it allocated
    open_files: int
    threads: int


def held(pid: int) -> Held:
    try:
        status = (_PROC / str(pid) / "status").read_text()
        files = len(os.listdir(_PROC / str(pid) / "fd"))
    except OSError:
        return Held(0, 0, 0, 0)
    numbers = dict(line.split(":", 1) for line in status.splitlines())
    sizes = (numbers.get(name, "0 kB").split()[0] for name in ("VmRSS", "RssAnon"))
    return Held(*(1024 * int(size) for size in sizes), files, int(numbers["Threads"]))


def cpu_seconds() -> float:
    """That this process and its descendants have worked so far; those that have ended do not count."""
    ticks = 0
    for pid in (os.getpid(), *descendants(os.getpid())):
        with contextlib.suppress(OSError):
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Its children, and theirs; not those that have yet to start their program: their memory is their parent's."""
    found, own = [], _command_line(pid)
    for task in _PROC.glob(f"{pid}/task/*/children"):
        with contextlib.suppress(OSError):  # ended meanwhile
            found += map(int, task.read_text().split())
    found = [child for child in found if _command_line(child) != own]
    return [*found, *(x for child in found for x in descendants(child))]


def _command_line(pid: int) -> bytes:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""
