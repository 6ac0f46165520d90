"""Programs that do the same work take turns, so that a change of load meets all of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks import timing


class Contestant(NamedTuple):
    """A program, ready to run.

    Attributes:
      run: starts the work and returns what `wait` waits for.
      wait: until the result of `run` exists.
      check: a number of the last result that must be finite, e.g. the loss.
      facts: what else is told of it: seconds of compilation, bytes.
    """

    run: Callable[[], Any]
    wait: Callable[[Any], Any]
    check: Callable[[], float]
    facts: Mapping[str, Any] = {}


def take_turns(
    contestants: Mapping[str, Contestant], *, repeats: int, least: float
) -> dict[str, dict[str, Any]]:
    """The row of each contestant: median, fastest and slowest seconds of a call, or why there is none.

    Args:
      contestants: by name. The first one is what the others' `ratio` is relative to (its seconds / theirs).
      repeats: timings of each, of as many calls as take `least` seconds.

    A contestant whose `check` is not finite has no times: a diverged run skips work, and looks fast.
    """
    calls, seconds, rows = {}, {}, {}
    for name, contestant in contestants.items():
        rows[name] = dict(contestant.facts)
        calls[name] = timing.timed(contestant.run, contestant.wait, least)
        seconds[name] = []
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(timing.seconds_a_call(call))
    for name, contestant in contestants.items():
        value = contestant.check()
        if math.isfinite(value):
            rows[name] |= _summary(seconds[name]) | {"check": value}
        else:
            rows[name]["error"] = f"the result is not finite ({value}): its times say nothing"
    _add_ratios(rows)
    return rows


def _summary(seconds: list[float]) -> dict[str, float]:
    return {
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
    }


def _add_ratios(rows: dict[str, dict[str, Any]]) -> None:
    first = next(iter(rows.values()), {}).get("seconds")
    for row in rows.values():
        if first and "seconds" in row:
            row["ratio"] = first / row["seconds"]
