"""SIGTERM and Ctrl-C: noted, so that the run saves before it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import jax


class Interrupted(BaseException):
    """Raised inside of `Interruption.at_once`; no `except Exception` on the way may hold it up."""


class Interruption:
    """While it is entered, the first SIGTERM or SIGINT only sets `signal`; a second Ctrl-C ends the program at once.

    Outside the main thread signals cannot be caught. Among several processes the preemption service of
    `jax.distributed` waits for SIGTERM, to agree on the step that all of them save; there Ctrl-C is made one, and
    `signal` stays None.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._at_once = self._handed_over = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            handlers = {signal.SIGTERM: self._handle, signal.SIGINT: self._handle}
            if jax.process_count() > 1:
                handlers = {signal.SIGINT: self._hand_over}
            for number, handler in handlers.items():
                self._before[number] = signal.signal(number, handler)
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

    def _hand_over(self, number: int, frame: object) -> None:
        if self._handed_over:
            raise KeyboardInterrupt
        self._handed_over = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _handle(self, number: int, frame: object) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if self._at_once:
            self._at_once = False
            raise Interrupted
