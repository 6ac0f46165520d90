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
      check: a number of the last result that must be finite, e.g. the loss. Raises if the result is not what was
        agreed on.
      facts: what else is told of it: seconds of compilation, bytes.
      compiled: the program of XLA, if it is one.
    """

    run: Callable[[], Any]
    wait: Callable[[Any], Any]
    check: Callable[[], float]
    facts: Mapping[str, Any] = {}
    compiled: Any = None


def take_turns(
    contestants: Mapping[str, Contestant], *, repeats: int, least: float
) -> dict[str, dict[str, Any]]:
    """The row of each contestant: median, fastest and slowest seconds of a call, or why there is none.

    Args:
      contestants: by name. `ratio` is the seconds of each over those of the first one.
      repeats: timings of each, of as many calls as take `least` seconds, after one that is not timed: the first call
        after another program has run finds its memory and its caches taken.

    A contestant that fails, or whose `check` is not finite, has no times: a diverged run skips work, and looks fast.
    """
    rows = {name: dict(contestant.facts) for name, contestant in contestants.items()}
    calls = {}
    for name, contestant in contestants.items():
        try:
            calls[name] = timing.timed(contestant.run, contestant.wait, least)
        except Exception as error:  # out of memory, for one: the others are measured
            rows[name]["error"] = line(error)
    seconds = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            call.wait(call.run())
            seconds[name].append(timing.seconds_a_call(call))
    for name in calls:
        rows[name] |= _checked(contestants[name].check, seconds[name])
    _add_ratios(rows)
    return rows


def line(error: BaseException) -> str:
    """The error in a line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300] if text else ''}"


def _checked(check: Callable[[], float], seconds: list[float]) -> dict[str, Any]:
    try:
        value = check()
    except Exception as error:
        return {"error": line(error)}
    if not math.isfinite(value):
        return {"error": f"the result is not finite ({value}): its times say nothing"}
    return _summary(seconds) | {"check": value}


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
            row["ratio"] = row["seconds"] / first
