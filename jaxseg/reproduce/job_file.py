"""`job.json` in the folder of a job: its command, how it ended, and what it took."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import uuid
from collections.abc import Sequence

from jaxseg.reproduce.plan import RUNS, Job
from jaxseg.training import claims, storage, validation, workdir

FILE = "job.json"
LOCK = ".job.lock"
OUTPUT = "output.txt"
METRICS = "metrics.json"  # of an evaluation
STATES = ("running", "stopped", "finished", "failed", "skipped")


@dataclasses.dataclass
class Record:
    """What job.json holds.

    Attributes:
      command: as typed.
      status: one of STATES. A "running" one that nobody runs was killed together with its runner.
      error: of a failed or skipped job.
      seconds: over all starts.
      starts: how often it was started.
      peak_rss_gib: the largest memory of its main process; None where the system does not tell.
      finished: when, in ISO 8601; "" before.
      run: a name for what the folder holds; what is begun anew, or trained further, gets another one.
      source: `run` of the job that it started from or evaluates; "" if it needs none.
    """

    command: list[str]
    status: str = "running"
    error: str = ""
    seconds: float = 0.0
    starts: int = 0
    peak_rss_gib: float | None = None
    finished: str = ""
    run: str = ""
    source: str = ""


def read(folder: pathlib.Path) -> Record | None:
    """The record in a folder; None if there is none.

    Raises:
      ValueError: it is damaged.
    """
    path = folder / FILE
    try:
        record = Record(**json.loads(path.read_text(encoding="utf-8")))
        known = record.status in STATES and all(isinstance(x, str) for x in record.command)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError):
        known = False
    if not known:
        raise ValueError(f"{path} is damaged. Remove {folder} to run it anew.")
    return record


def write(folder: pathlib.Path, record: Record) -> None:
    """Writes job.json, whole.

    Raises:
      OSError: it cannot be written; the old one is as it was.
    """
    workdir.write_json(folder / FILE, dataclasses.asdict(record))


def complete(job: Job) -> bool:
    """Whether the folder has the job's results."""
    try:
        name = validation.FINISHED if job.steps else METRICS
        found = json.loads((job.folder / name).read_text(encoding="utf-8"))
        return isinstance(found, dict) and (not job.steps or found["step"] >= job.steps)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return False


def has_work(folder: pathlib.Path) -> bool:
    """Whether something lies in the folder that took time: results or a checkpoint."""
    if any((folder / name).exists() for name in (validation.FINISHED, METRICS)):
        return True
    return bool(storage.finished_steps(claims.where(folder)))


def begin(record: Record, job: Job, source: Job | None) -> None:
    """Notes in the record of a job that is about to be started what is begun, and from what; nothing is written.

    Args:
      source: the finished job that it needs, if any.
    """
    continued = has_work(job.folder)
    # What was complete with fewer steps and now goes on is something else for those that start from it.
    if not continued or (job.folder / validation.FINISHED).exists():
        record.run = uuid.uuid4().hex
    if not continued:
        record.source = _name_of_run(source) or ""


def check_source(job: Job, record: Record | None, source: Job | None) -> None:
    """Sees to it that what lies in the folder started from, or is an evaluation of, what its source holds now.

    Args:
      source: the job that it needs, if any.

    Raises:
      ValueError: the source was run anew, or will be.
    """
    if record is None or source is None or not has_work(job.folder):
        return
    if record.source != _name_of_run(source):
        raise ValueError(
            f"{job.folder} belongs to another run of {source.name} than {source.folder} has now. Remove {job.folder} "
            "to run it anew, or choose another --workdir."
        )


def _name_of_run(job: Job | None) -> str | None:
    """`Record.run` of a job, "" where none is recorded; None if the next start will give it another."""
    if job is None:
        return ""
    record = read(job.folder)
    done = not (job.folder / validation.FINISHED).exists() or complete(job)
    return record.run if record is not None and has_work(job.folder) and done else None


def check_command(job: Job, record: Record | None) -> None:
    """Sees to it that what lies in the folder was made by the job's own command.

    Folders of a table may be moved: where they lie does not count. A start that left nothing may be repeated in
    another way, for example mended.

    Raises:
      ValueError: it was made by another one; the message has the differences.
    """
    if record is None:
        if has_work(job.folder):
            raise ValueError(
                f"{job.folder} has a run without {FILE}, so that nobody knows whether it is one of this table. Move it "
                "away, or choose another --workdir."
            )
        return
    before, now = _placeless(record.command, job), _placeless(job.command, job)
    if before == now or not has_work(job.folder):
        return
    gone, new = [x for x in before if x not in now], [x for x in now if x not in before]
    raise ValueError(
        f"{job.folder} belongs to another command: {_difference(gone, new)}. Give "
        "the options it was made with, remove that folder to run the row anew, or choose another --workdir."
    )


def _difference(gone: Sequence[str], new: Sequence[str]) -> str:
    """How a command that was given differs from the one asked for: words that it had alone, words that are new."""
    if gone and new:
        return f"it has {' '.join(gone)}; asked for now: {' '.join(new)}"
    if gone:
        return f"it has {' '.join(gone)}, which is not asked for now"
    if new:
        return f"it lacks {' '.join(new)}, which is asked for now"
    return "the order of its arguments differs"


def _placeless(command: Sequence[str], job: Job) -> list[str]:
    """The command with DIR for the table's folder, which stands before runs/ROW/seedK in the job's own argument."""
    own = os.path.join(RUNS, job.row, f"seed{job.seed}")
    flag = "--workdir=" if job.steps else "--out="
    typed = [word.removeprefix(flag) for word in command if word.startswith(flag)]
    place = typed[0].removesuffix(own) if typed and typed[0].endswith(own) else ""
    runs = os.path.join(place, RUNS, "")
    return [word.replace(f"={runs}", f"=DIR/{RUNS}/") for word in command]
