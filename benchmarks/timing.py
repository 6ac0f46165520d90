"""Times of asynchronous calls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple


class Timed(NamedTuple):
    """A call to be timed."""

    run: Callable[[], object]
    wait: Callable[[object], object]  # until the result of `run` exists
    calls: int  # in one timing, so that it is long against the start of a call


def timed(run: Callable[[], object], wait: Callable[[object], object], least: float) -> Timed:
    """Warms up, and plans as many calls a timing as take `least` seconds, at most 100."""
    wait(run())
    seconds = seconds_a_call(Timed(run, wait, 1))
    return Timed(run, wait, max(1, min(100, math.ceil(least / max(seconds, 1e-9)))))


def seconds_a_call(call: Timed) -> float:
    begin = time.perf_counter()
    for _ in range(call.calls):
        result = call.run()
    call.wait(result)
    return (time.perf_counter() - begin) / call.calls
