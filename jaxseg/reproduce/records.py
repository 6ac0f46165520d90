"""What the runs of a table have left in its work directory: outcome, numbers, command, times."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxseg.training import metrics, validation, workdir

JOB_FILE = "job.json"
EVALUATION = "metrics.json"  # what eval.py leaves
RUNS = "runs"
MISSING = "not started"
UNFINISHED = "unfinished"  # begun by hand: nothing says whether it still runs


@dataclasses.dataclass(frozen=True)
class Run:
    """One row with one seed, as far as it has come. Nothing but `row`, `seed` and `folder` need be there.

    Attributes:
      status: that of job.json (running, finished, failed, skipped); without one, "finished", "unfinished" or
        "not started".
      settings: what run.json holds, or evaluation.json.
      metrics: of a finished run; "mask/AP" -> fraction, None where it is not defined (no large objects, say).
      log: the lines of log.jsonl.
    """

    row: str
    seed: int
    folder: pathlib.Path
    status: str = MISSING
    error: str = ""
    command: tuple[str, ...] = ()
    job: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    final: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float | None] = dataclasses.field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def name(self) -> str:
        return f"{self.row}/seed{self.seed}"

    @property
    def log(self) -> list[dict[str, Any]]:
        return metrics.read(self.folder)


def find(folder: pathlib.Path, table: Any, jobs: Iterable[Any] = ()) -> dict[str, list[Run]]:
    """The runs of each row of the table, in order of their seeds: those of `jobs`, and those that are on disk.

    Runs of other rows or seeds than those asked for now belong to the table as well: that is how the shards of several
    machines and tables that were run row by row come together.
    """
    planned: dict[str, dict[int, Any]] = {row.name: {} for row in table.rows}
    for job in jobs:
        name = job.row if isinstance(job.row, str) else job.row.name
        planned.setdefault(name, {})[int(job.seed)] = job
    found = {}
    for row in table.rows:
        chosen = planned[row.name]
        both = sorted({*chosen, *seeds(folder / RUNS / row.name)})
        found[row.name] = [read(folder, row.name, seed, chosen.get(seed)) for seed in both]
    return found


def read(folder: pathlib.Path, row: str, seed: int, job: Any = None) -> Run:
    """Reads what there is of one run; `job`, if given, tells its command before it has started."""
    place = folder / RUNS / row / f"seed{seed}"
    noted = _json(place / JOB_FILE)
    final = _json(place / validation.FINISHED)
    settings = _json(place / workdir.RUN_FILE)
    if not final and not settings:
        final, settings = _json(place / EVALUATION), _json(place / workdir.EVALUATION_FILE)
    status = noted.get("status") or ("finished" if final else UNFINISHED if settings else MISSING)
    return Run(
        row=row,
        seed=seed,
        folder=place,
        status=status,
        error=str(noted.get("error") or ""),
        command=tuple(map(str, noted.get("command") or getattr(job, "command", ()) or ())),
        job=noted,
        settings=settings,
        final=final,
        metrics=_metrics(final) if status == "finished" else {},
    )


def timings(run: Run) -> dict[str, Any]:
    """Seconds and GiB of a run, as far as they are known.

    Returns:
      seconds (wall clock, over all starts), starts, finished (a date), seconds_per_step (the median over the log,
      without compilation and validation), device_gib (peak of the first device), host_gib (peak of the process),
      evaluation_seconds (of the last validation, with compilation).
    """
    train = [line for line in run.log if line["split"] == "train"]
    batch = _within(run.settings, "config", "train", "batch_size")
    speeds = [line["images_per_second"] for line in train if line.get("images_per_second")]
    memory = [line["memory_gib"] for line in train if line.get("memory_gib")]
    return {
        "seconds": run.job.get("seconds"),
        "starts": run.job.get("starts"),
        "finished": run.job.get("finished"),
        "seconds_per_step": batch / float(np.median(speeds)) if batch and speeds else None,
        "device_gib": max(memory, default=None),
        "host_gib": run.job.get("peak_rss_gib"),
        "evaluation_seconds": run.final.get("seconds"),
    }


def _metrics(final: Mapping[str, Any]) -> dict[str, float | None]:
    """Every kind of AP that there is (box, mask, ...). -1 says "not defined", and a value may be no number."""
    return {
        f"{kind}/{name}": float(value) if _number(value) else None
        for kind, numbers in final.items()
        if isinstance(numbers, Mapping) and isinstance(numbers.get("summary"), Mapping)
        for name, value in numbers["summary"].items()
    }


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def seeds(folder: pathlib.Path) -> list[int]:
    """The seeds of the runs in the folder of a row."""
    names = [path.name.removeprefix("seed") for path in folder.glob("seed*") if path.is_dir()]
    return [int(name) for name in names if name.isascii() and name.isdigit()]


def _within(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _json(path: pathlib.Path) -> dict[str, Any]:
    """What the file holds; {} if it is not there or damaged: one run must not hide the others."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
