"""Notices at once that a worker of grain's died, whatever it was doing.

Grain itself waits for ever if a worker is killed (by the system that is out of memory, say) in the middle of handing a
batch over: the pipe between them stays open, since the parent holds its other end, too. It waits likewise for locks
that a dead worker held.
"""

from __future__ import annotations

import contextlib
import signal
from typing import Any

from grain._src.python.dataset.transformations import process_prefetch

_REAP_SECONDS = 5.0  # the pipe ends a moment before the process does


def watch() -> None:
    """Makes all workers that are started from now on watched ones; further calls do nothing."""
    process_prefetch.ProcessPrefetchDatasetIterator = _Watched


class _Watched(process_prefetch.ProcessPrefetchDatasetIterator):
    """What iterates over the elements of one worker process."""

    def start_prefetch(self) -> None:
        super().start_prefetch()
        self._buffer._writer.close()  # the worker's is the only one: with it the pipe ends

    def __next__(self) -> Any:
        process = self._prefetch_process
        try:
            return super().__next__()
        except (EOFError, OSError, RuntimeError) as error:
            code = _exit_code(process or self._prefetch_process, error)
            if not code:
                raise  # the worker's own error, handed over
            raise ChildProcessError(_told(code)) from error

    def _stop_prefetch(self) -> None:
        if self._prefetch_process is not None and self._prefetch_process.exitcode:
            # There is nothing to stop, and it may hold the locks that stopping takes.
            self._prefetch_process = None
            return
        # The end of the pipe where grain looks whether there is more in it.
        with contextlib.suppress(EOFError, OSError):
            super()._stop_prefetch()
        self._prefetch_process = None


def _exit_code(process: Any, error: Exception) -> int | None:
    if isinstance(error, EOFError | OSError):
        process.join(_REAP_SECONDS)
    return process.exitcode


def _told(code: int) -> str:
    if code == -signal.SIGKILL:
        how = "was killed (SIGKILL), as the system does when memory runs out"
    elif code < 0:
        how = f"died of {signal.Signals(-code).name}"
    else:
        how = f"ended with exit code {code}"
    return f"A process that prepares images {how}."
