"""Runs the jobs of a table one after another; what a kill, a failure or a full disk leaves is gone on with."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from rich.console import Console

from jaxseg.reproduce import compiled, job_file, process, results, table_page
from jaxseg.reproduce.job_file import Record
from jaxseg.reproduce.plan import Job
from jaxseg.reproduce.progress import Display
from jaxseg.training import workdir

POLL = 0.2  # seconds between looks at a program
NOTE = 60.0  # seconds between notes of how long it runs
TOLD = 10  # folders that are named in an error
TAIL = 65_536  # bytes of an output that its last words are looked for in

Writer = Callable[[pathlib.Path, Any, Sequence[Job]], Any]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Status of each job by its name, and the number of the signal that ended it all, or 0."""

    status: dict[str, str]
    signal: int = 0

    @property
    def failed(self) -> list[str]:
        """Names of the jobs that failed or were skipped."""
        return [name for name, status in self.status.items() if status in ("failed", "skipped")]

    @property
    def exit_status(self) -> int:
        """143 or 130 after a signal, 1 if something failed, else 0."""
        return 128 + self.signal if self.signal else int(bool(self.failed))


def survey(jobs: Sequence[Job], others: Sequence[Job] = ()) -> dict[str, str]:
    """Name of each job -> what is known of it: one of `job_file.STATES`, or "not started". Nothing is changed.

    Args:
      jobs: those of `plan.jobs`.
      others: those of `plan.others`. They are in the results as well, so that they are checked with the others.

    Raises:
      ValueError: folders belong to another command or to another run of what they need, or their job.json is damaged.
    """
    found, mistakes = {}, []
    every = {job.name: job for job in (*jobs, *others)}
    for job in every.values():
        try:
            record = job_file.read(job.folder)
            job_file.check_command(job, record)
            job_file.check_source(job, record, every.get(job.source))
        except ValueError as error:
            mistakes.append(str(error))
    if mistakes:
        more = f"\nand {len(mistakes) - TOLD} more folders." if len(mistakes) > TOLD else ""
        raise ValueError("\n".join(mistakes[:TOLD]) + more)
    for job in jobs:
        record = job_file.read(job.folder)
        done = record is not None and job_file.complete(job)
        status = "not started" if record is None else record.status
        found[job.name] = "finished" if done else "stopped" if status == "finished" else status
    return found


def lacks(jobs: Sequence[Job], status: dict[str, str]) -> list[str]:
    """What is missing for the jobs that are to be run, each with the rows that need it."""
    rows: dict[str, dict[str, None]] = {}
    for job in jobs:
        for what in job.lacks if status[job.name] != "finished" else ():
            rows.setdefault(what, {})[job.row] = None
    return [f"{what}, for {_few(list(names))}" for what, names in rows.items()]


def run(
    table: Any,
    jobs: Sequence[Job],
    folder: pathlib.Path,
    *,
    console: Console,
    others: Sequence[Job] = (),
    shard: tuple[int, int] = (1, 1),
    write_results: Writer = results.write,
    write_report: Writer = table_page.write,
) -> Outcome:
    """Runs what is not finished. The same call goes on after any end, and tries again what failed.

    After every job the numbers are written, at the end the report, also after SIGTERM or Ctrl-C, which are passed on
    to the program under way.

    Args:
      table: what the jobs are of.
      jobs: those of `plan.jobs`.
      folder: the table's work directory; made if need be.
      console: where to report to.
      others: those of `plan.others`, which are not run.
      shard: which runner of how many in this folder this is.
      write_results, write_report: called with (folder, table, jobs).

    Raises:
      ValueError: `survey` finds a mistake, or something needed is missing; nothing was run.
      BlockingIOError: another runner does the same.
      OSError: the folder cannot be written, or a row found the disk full.
    """
    missing = lacks(jobs, survey(jobs, others))
    if missing:
        raise ValueError("There is something missing:\n  " + "\n  ".join(missing))
    folder, every = workdir.prepare(folder), {job.name: job for job in jobs}
    with _alone(folder, shard), process.Stop() as stop:
        status: dict[str, str] = {}
        with Display(jobs, console) as display:
            for job in jobs:
                if stop.signal:
                    break
                record = job_file.read(job.folder)
                if record is not None and record.status == "finished" and job_file.complete(job):
                    status[job.name] = record.status
                    display.end(job, record, told=False)
                    continue
                turn = _Turn(job, every.get(job.source), folder, status, stop, display)
                status[job.name] = turn.take()
                _write_between(write_results, folder, table, jobs, display)
                _check_space(job)
        write_results(folder, table, jobs)
        write_report(folder, table, jobs)
    return Outcome(status, stop.signal)


@contextlib.contextmanager
def _alone(folder: pathlib.Path, shard: tuple[int, int]) -> Iterator[None]:
    """Keeps a second runner of the same jobs out; it would only wait for this one, job by job."""
    i, n = shard
    path = folder / f".runner-{i}-of-{n}.lock"

    def tell() -> None:
        raise BlockingIOError(
            f"Another runner is at work in {folder}. Wait for its end or stop it; several machines share the work with "
            "--shard=1/2, 2/2."
        )

    with process.locked(path, tell, process.Stop()):
        yield


def _check_space(job: Job) -> None:
    """Ends it all where a row failed for want of space: the others would train up to their first save, and fail."""
    record = job_file.read(job.folder)
    full = os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)
    if record is not None and record.status == "failed" and any(x in record.error for x in full):
        raise OSError(
            f"{job.name} failed and nothing else is started: {record.error} The same command goes on with all rows."
        )


def _write_between(
    write: Writer, folder: pathlib.Path, table: Any, jobs: Sequence[Job], display: Display
) -> None:
    """Writes the numbers so far. What is wrong with them must not end the training; at the end it is raised."""
    try:
        write(folder, table, jobs)
    except OSError:
        raise
    except Exception as error:
        display.say(f"The results could not be written: {type(error).__name__}: {error}")


@dataclasses.dataclass
class _Turn:
    """One job's turn: from what its folder says to its end. It was not finished before."""

    job: Job
    source: Job | None  # what it needs
    folder: pathlib.Path  # the table's
    status: dict[str, str]  # of the jobs before
    stop: process.Stop
    display: Display

    def take(self) -> str:
        """Runs the job if it must be run; gives its status."""
        job = self.job
        workdir.prepare(job.folder)
        try:
            with process.locked(job.folder / job_file.LOCK, self._tell_waiting, self.stop) as lock:
                record = self._locked(lock)
        except process.Stopped:
            return "stopped"
        self.display.end(job, record)
        return record.status

    def _tell_waiting(self) -> None:
        self.display.say(
            f"Waiting for {self.job.name}: a program that was started before is still at work in {self.job.folder}."
        )

    def _locked(self, lock: int | None) -> Record:
        job = self.job
        record = job_file.read(job.folder) or Record(list(job.command))
        job_file.check_command(job, record)  # again: somebody else may have been here
        job_file.check_source(job, record, self.source)
        record.command, record.error = list(job.command), ""
        if job_file.complete(job):
            record.status = "finished"
        elif job.needs and self._before != "finished":
            record.status = "skipped"
            record.error = f"it needs {job.source}, which {_became(self._before)}"
        else:
            self._execute(record, lock)
        if record.status == "finished":
            record.finished = record.finished or _now()
        job_file.write(job.folder, record)
        return record

    @property
    def _before(self) -> str:
        return self.status.get(self.job.source, "not started")

    def _execute(self, record: Record, lock: int | None) -> None:
        """Starts the program and stays with it; `record` is then up to date."""
        job, before, begin = self.job, record.seconds, time.monotonic()
        record.status, record.starts = "running", record.starts + 1
        job_file.begin(record, job, self.source)
        job_file.write(job.folder, record)
        self.display.begin(job)
        with open(job.folder / job_file.OUTPUT, "ab+") as output:
            first = output.seek(0, 2)
            try:
                cache = compiled.environment(self.folder)
                child = process.Child(job.command, output, lock, cache)
            except OSError as error:
                record.status, record.error = "failed", f"could not be started: {error}"
                return
            try:
                with self.stop.passing_to(child):
                    code = self._wait(child, record, before, begin)
            finally:
                child.end()
            record.seconds = round(before + time.monotonic() - begin, 3)
            record.status, record.error = self._judge(code, output, first)

    def _wait(self, child: process.Child, record: Record, before: float, begin: float) -> int:
        noted = begin
        while (code := child.poll()) is None:
            record.peak_rss_gib = max(record.peak_rss_gib or 0, child.peak_rss_gib or 0) or None
            self.display.update(self.job)
            if time.monotonic() - noted > NOTE:
                noted = time.monotonic()
                record.seconds = round(before + noted - begin, 3)
                with contextlib.suppress(OSError):  # what counts is written at the end
                    job_file.write(self.job.folder, record)
            time.sleep(POLL)
        return code

    def _judge(self, code: int, output: IO[bytes], first: int) -> tuple[str, str]:
        """(status, error) of a program that has ended."""
        if code == 0 and job_file.complete(self.job):
            return "finished", ""
        if self.stop.signal:
            return "stopped", ""
        output.seek(max(first, output.seek(0, 2) - TAIL))
        return "failed", process.failure(code, output.read().decode(errors="replace"))


def _became(status: str) -> str:
    return {"failed": "failed", "skipped": "was skipped"}.get(status, f"is {status}")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
