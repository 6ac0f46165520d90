"""What the runner says while it works: lines for logs, bars on a terminal, and when all of it will be done."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Collection, Iterable, Mapping, Sequence

from rich import progress as bars
from rich.console import Console

from jaxseg.reproduce.job_file import Record
from jaxseg.reproduce.plan import Job
from jaxseg.training import claims, metrics, storage

TAIL = 16_384  # bytes of a log that have its last line
EVERY = 600.0  # seconds between lines about a job where there are no bars


def headline(
    title: str, jobs: Sequence[Job], status: Mapping[str, str], shard: tuple[int, int]
) -> str:
    """What is about to be run: `Title: 4 jobs, 2 rows x 2 seeds; 1 already finished.`

    Args:
      title: of the table.
      jobs: those of this runner.
      status: of each by its name, as `runner.survey` gives it.
      shard: (i, n).
    """
    i, n = shard
    if not jobs:
        return (
            f"{title}: shard {i} of {n} has nothing to do. There are fewer than {n} parts: a row, all that it starts "
            "from and all that starts from it stay together, for each seed."
        )
    rows, seeds = ({getattr(job, key) for job in jobs} for key in ("row", "seed"))
    done = sum(status[job.name] == "finished" for job in jobs)
    return (
        f"{title}: {_count(jobs, 'job')}, {_count(rows, 'row')} x {_count(seeds, 'seed')}"
        + (f", shard {i} of {n}" if n > 1 else "")
        + (f"; {done} already finished." if done else ".")
    )


def last_step(folder: pathlib.Path, since: float = 0.0) -> int:
    """The last step that the run in a folder has logged; 0 before, or if its log is older than `since` (a time).

    What an earlier start logged after its last checkpoint stays in the log until the next start has come to log.
    """
    try:
        if (folder / metrics.FILE).stat().st_mtime < since:
            return 0
        with open(folder / metrics.FILE, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue  # half a line
    return 0


def saved_step(folder: pathlib.Path) -> int:
    """The step of the newest checkpoint in a folder, from which a run goes on; 0 without any."""
    steps = storage.finished_steps(claims.where(folder))
    return max(steps, default=0)


def seconds_left(
    jobs: Iterable[Job],
    spent: Mapping[str, tuple[float, int]],
    done: Mapping[str, int],
) -> float | None:
    """Estimates how long jobs still take, at the speed of what was measured.

    Args:
      jobs: those that are not finished.
      spent: name of a job -> (seconds, steps) that were measured, of jobs that are finished or under way; steps is 0
        for an evaluation.
      done: name of a job -> steps that it has already made.

    Returns:
      Seconds; a row goes at the speed of its own other seeds, or else of all that were measured. None if no training
      was measured but some are left. Evaluations take what others took, or nothing.
    """
    trained = [(name, s, n) for name, (s, n) in spent.items() if n and s]
    evaluated = [s for s, n in spent.values() if not n and s]

    def rate(chosen: Sequence[tuple[str, float, int]]) -> float | None:
        return sum(s for _, s, _ in chosen) / sum(n for _, _, n in chosen) if chosen else None

    total = 0.0
    for job in jobs:
        if not job.steps:
            total += sum(evaluated) / len(evaluated) if evaluated else 0.0
            continue
        own = [x for x in trained if x[0].rpartition(" seed ")[0] == job.row]
        speed = rate(own or trained)
        if speed is None:
            return None
        total += speed * max(0, job.steps - done.get(job.name, 0))
    return total


class Display:
    """Lines on a console, and bars below them if it is a terminal. A context manager.

    Args:
      jobs: all of them, in their order.
      console: where to.
    """

    def __init__(self, jobs: Sequence[Job], console: Console):
        self._jobs, self._console = list(jobs), console
        self._open = {job.name: job for job in jobs}
        self._spent: dict[str, tuple[float, int]] = {}
        self._done = {job.name: saved_step(job.folder) for job in jobs if job.steps}
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[left]}"),
            console=console,
            auto_refresh=False,
            disable=not console.is_terminal,
        )
        self._all = self._bars.add_task("jobs", total=len(self._jobs), left="")
        self._own = self._bars.add_task("", total=None, left="", visible=False)
        self._begin = self._told = time.monotonic()
        self._started, self._first = 0.0, 0

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text)

    def begin(self, job: Job) -> None:
        """A job starts, or goes on from where it was stopped."""
        self._begin = self._told = time.monotonic()
        self._started = time.time() - 0.1  # files have coarser clocks
        self._first = saved_step(job.folder)
        started = f"goes on from step {self._first}" if self._first else "starts"
        self.say(f"{self._label(job)} {started}.")
        self._bars.update(
            self._own,
            description=job.name,
            total=job.steps or None,
            completed=self._first,
            left="",
            visible=True,
        )

    def update(self, job: Job) -> None:
        """Shows how far the job is; called every moment."""
        step, seconds = last_step(job.folder, since=self._started), time.monotonic() - self._begin
        step = max(step, self._first)
        self._done[job.name] = step
        if step > self._first:
            self._spent[job.name] = (seconds, step - self._first)
        left = self._left()
        self._bars.update(self._own, completed=step)
        self._bars.update(self._all, left=f"about {left} left" if left else "")
        self._bars.refresh()
        if self._bars.disable and time.monotonic() - self._told > EVERY:
            self._told = time.monotonic()
            of = f" at step {step} of {job.steps}" if job.steps else ""
            self.say(f"{self._label(job)} is{of or ' under way'}{_about(left)}.")

    def end(self, job: Job, record: Record, *, told: bool = True) -> None:
        """A job is over, finished or not; `told`: with a line about it."""
        del self._open[job.name]
        self._spent.pop(job.name, None)
        if record.status == "finished" and record.seconds:
            self._spent[job.name] = (record.seconds, job.steps)
        self._bars.update(self._own, visible=False)
        self._bars.update(self._all, completed=len(self._jobs) - len(self._open))
        self._bars.refresh()
        if told:
            took = f" after {metrics.duration(record.seconds)}" if record.seconds else ""
            why = f": {record.error}" if record.error else "."
            left = _about(self._left()) if self._open and record.status != "stopped" else ""
            self.say(f"{self._label(job)} {record.status}{took}{left}{why}")

    def _left(self) -> str:
        left = seconds_left(self._open.values(), self._spent, self._done)
        return metrics.duration(left) if left else ""

    def _label(self, job: Job) -> str:
        index = next(i for i, other in enumerate(self._jobs) if other.name == job.name)
        return f"[{index + 1}/{len(self._jobs)}] {job.name}"


def _count(things: Collection, what: str) -> str:
    return f"{len(things)} {what}" + ("" if len(things) == 1 else "s")


def _about(left: str) -> str:
    return f", about {left} left for all" if left else ""
