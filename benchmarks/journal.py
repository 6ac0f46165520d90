"""Work in a second process that may crash or hang: what it did is in a journal, and the rest goes on without it.

A wrong kernel can leave the device unusable for its process, abort the compiler, or never end. The worker writes down
each step before it begins and each result when it ends; the supervisor notes which step broke and starts a new worker,
which does what is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Sequence


class Journal:
    """Results by key, in a file with a line for each event."""

    def __init__(self, path: str | os.PathLike):
        self._path = pathlib.Path(path)
        self.rows: dict[str, dict] = {}
        self.current: str | None = None  # begun and not ended
        self.finished = False
        self.unfinished: str | None = None  # why the supervisor gave up
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # empty, or cut off by a crash
                    self._take(json.loads(line))

    def begin(self, key: str) -> None:
        self._write({"begin": key})

    def end(self, key: str, row: dict) -> None:
        self._write({"end": key, "row": row})

    def finish(self) -> None:
        self._write({"finish": True})

    def _write(self, event: dict) -> None:
        with open(self._path, "a") as file:
            file.write(f"\n{json.dumps(event)}\n")  # even behind a line that was cut off
        self._take(event)

    def _take(self, event: dict) -> None:
        if "begin" in event:
            self.current, self.finished = event["begin"], False  # another call goes on
        elif "end" in event:
            self.rows[event["end"]] = event["row"]
            self.current = None if self.current == event["end"] else self.current
        else:
            self.finished = True


def supervise(
    command: Sequence[str], path: str | os.PathLike, *, stall_seconds: float, **options
) -> Journal:
    """Runs `command`, whose journal is `path`, until it has finished; a step that breaks gets the row {"error": why}.

    A worker that writes nothing for `stall_seconds` is killed. One that ends without having done or begun anything is
    the last: `unfinished` then says how it ended. `options` are Popen's.
    """
    while True:
        known = len(Journal(path).rows)
        end = _run(command, pathlib.Path(path), stall_seconds, options)
        journal = Journal(path)
        if journal.finished:
            return journal
        if journal.current is not None:
            journal.end(journal.current, {"error": end})
        elif len(journal.rows) == known:
            journal.unfinished = end
            return journal


def _run(command, path: pathlib.Path, stall_seconds: float, options: dict) -> str:
    """Runs one worker; returns how it ended."""
    started = time.time()
    with subprocess.Popen(command, **options) as process:
        try:
            while process.poll() is None:
                last = max(started, path.stat().st_mtime) if path.exists() else started
                if time.time() - last > stall_seconds:
                    return f"no progress in {stall_seconds:g} s"
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.5)
        finally:
            if process.poll() is None:
                process.kill()
    code = process.returncode
    return (
        f"the process was ended by signal {-code}"
        if code < 0
        else f"the process exited with {code}"
    )
