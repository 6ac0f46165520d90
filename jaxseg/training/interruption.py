"""SIGTERM and Ctrl-C: noted, so that the run saves before it ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax


class Interrupted(BaseException):
    """Raised inside of `Interruption.at_once`; no `except Exception` on the way may hold it up."""


class Interruption:
    """While it is entered, the first SIGTERM or SIGINT only sets `signal`; a second Ctrl-C ends the program at once.

    Outside the main thread signals cannot be caught, and under `jax.distributed` its own preemption service
    handles them: there nothing is installed.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._at_once = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it a signal raises `Interrupted`: for work that may be dropped, such as a validation."""
        if self.signal is not None:
            raise Interrupted
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: object) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if self._at_once:
            self._at_once = False
            raise Interrupted
