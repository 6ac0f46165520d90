"""The numbers of a table: `results.json`, `timings.json` and `table.md` in its work directory.

`results.json` holds only what the same commands give again: a run that was killed and continued leaves the same bytes
as one that was not. What differs from run to run (seconds, memory, dates) is in `timings.json`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxseg import atomic
from jaxseg.reproduce import markdown, places, process, records, statistics
from jaxseg.reproduce.places import Hidden
from jaxseg.reproduce.records import Run
from jaxseg.training import workdir

RESULTS, TIMINGS, TABLE = "results.json", "timings.json", "table.md"
FORMAT = 1
LOCK = ".results.lock"


def write(folder: str | os.PathLike, table: Any, jobs: Iterable[Any] = ()) -> dict[str, Any]:
    """Writes results.json, timings.json and table.md of what has been run so far; each is replaced as a whole.

    Args:
      folder: the work directory of the table.
      table: a `configs.tables.table.Table`.
      jobs: what is to be run (`row`, `seed`, `command`); other runs of the table that are there already count, too.

    Returns:
      The content of results.json.

    Raises:
      OSError: a file cannot be written; the old one is as it was.
    """
    folder = pathlib.Path(folder)
    with writing(folder):
        runs = records.find(folder, table, jobs)
        found, times = collect(folder, table, runs), collect_times(runs)
        workdir.write_json(folder / RESULTS, found)
        workdir.write_json(folder / TIMINGS, times)
        with atomic.replacing(folder / TABLE) as file:
            file.write(markdown.document(found, times))
        return found


@contextlib.contextmanager
def writing(folder: pathlib.Path) -> Iterator[None]:
    """Lets one program at a time sum the table up, from the reading on.

    Without it one that has read before another's last run was finished could write over that one's full table.

    Raises:
      OSError: the folder cannot be written.
    """
    with process.locked(folder / LOCK, lambda: None, process.Stop()):
        yield


def collect(folder: pathlib.Path, table: Any, runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """The content of results.json.

    Args:
      folder: the work directory of the table; "$DIR" stands for it in commands, errors and paths.
      table: a `configs.tables.table.Table`.
      runs: row -> its runs, as `records.find` gives them.
    """
    place = places.hidden(folder, runs)
    return {
        "format": FORMAT,
        "title": table.title,
        "source": table.source,
        "notes": table.notes,
        "units": {"measured": "fraction", "published": "percent"},
        "confidence": statistics.CONFIDENCE,
        "power": statistics.POWER,
        "columns": columns(table, runs),
        "baseline": table.baseline,
        "rows": [
            _row(table, row, label, runs, place)
            for row, label in zip(table.rows, _labels(table), strict=True)
        ],
        "environments": environments(runs),
    }


def collect_times(runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """The content of timings.json: of each run, and of each row over its runs."""
    of_runs = {row: {run.name: records.timings(run) for run in runs[row]} for row in runs}
    return {
        "format": FORMAT,
        "units": {"seconds": "wall clock", "gib": "peak, 2**30 bytes"},
        "rows": {row: _sum_up(list(times.values())) for row, times in of_runs.items()},
        "runs": {name: times for group in of_runs.values() for name, times in group.items()},
    }


def columns(table: Any, runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """Those of the table's columns that anyone measured or published; then the AP of kinds that it does not name."""
    measured = [
        key
        for group in runs.values()
        for run in group
        for key, value in run.metrics.items()
        if value is not None
    ]
    known = {*measured, *(key for row in table.rows for key in row.published)}
    named = {key.partition("/")[0] for key in table.columns}
    further = [k for k in dict.fromkeys(measured) if k.endswith("/AP")]
    return [
        *(key for key in table.columns if key in known),
        *(key for key in further if key.partition("/")[0] not in named),
    ]


def values(runs: Sequence[Run], key: str) -> dict[int, float]:
    """Seed -> value of a metric, of the finished runs that have it."""
    found = {run.seed: run.metrics.get(key) for run in runs if run.finished}
    return {seed: value for seed, value in found.items() if value is not None}


def environments(runs: Mapping[str, Sequence[Run]]) -> list[dict[str, Any]]:
    """The distinct commits, devices and versions that runs had, each with the names of its runs."""
    found: list[dict[str, Any]] = []
    for run in (run for group in runs.values() for run in group if run.settings):
        own = {key: run.settings.get(key) for key in ("commit", "device", "versions")}
        for known in found:
            if all(known[key] == value for key, value in own.items()):
                known["runs"].append(run.name)
                break
        else:
            found.append({**own, "runs": [run.name]})
    return found


def typed(command: Sequence[str]) -> list[str]:
    """A command as one would type it: which Python it was does not matter, the versions are told apart."""
    head = [
        "python" if os.path.basename(word).startswith("python") else word for word in command[:1]
    ]
    return [*head, *command[1:]]


def _labels(table: Any) -> list[str]:
    """What the rows are called; a label that two of them have gets the name of its row."""
    labels = [row.label or row.name for row in table.rows]
    return [
        label if labels.count(label) == 1 else f"{label} ({row.name})"
        for label, row in zip(labels, table.rows, strict=True)
    ]


def _row(
    table: Any, row: Any, label: str, runs: Mapping[str, Sequence[Run]], place: Hidden
) -> dict[str, Any]:
    own = runs.get(row.name, ())
    keys = list(dict.fromkeys(key for run in own for key in run.metrics))
    return {
        "name": row.name,
        "label": label,
        **{key: getattr(row, key) for key in ("config", "start_from", "evaluate", "weights")},
        "overrides": _plain(dict(row.overrides)),
        "published": dict(row.published),
        "source": row.source,
        "runs": [_run(run, place) for run in own],
        "metrics": {
            key: _dict(statistics.summary(list(values(own, key).values()))) for key in keys
        },
        "difference": _difference(table, row, runs, place),
    }


def _run(run: Run, place: Hidden) -> dict[str, Any]:
    kept = ("step", "split", "images", "detections", "skipped")
    return {
        "seed": run.seed,
        "status": run.status,
        "error": place(run.error),
        "command": places.replaced(typed(run.command), place),
        **{key: run.final[key] for key in kept if run.finished and key in run.final},
        "metrics": dict(run.metrics),
    }


def _difference(
    table: Any, row: Any, runs: Mapping[str, Sequence[Run]], place: Hidden
) -> dict[str, Any] | None:
    """What sets a row off against its baseline: numbers, published numbers (in percent), configs."""
    name = table.baseline_of(row)
    if not name:
        return None
    baseline = table.row(name)
    ours, theirs = runs.get(row.name, ()), runs.get(name, ())
    keys = list(dict.fromkeys(key for run in ours for key in run.metrics))
    pairs = {key: statistics.difference(values(ours, key), values(theirs, key)) for key in keys}
    # Both are rounded numbers of print; their difference has no more digits than they.
    published = {
        key: round(value - baseline.published[key], 6)
        for key, value in row.published.items()
        if key in baseline.published
    }
    return {
        "baseline": name,
        "metrics": {key: _dict(found) for key, found in pairs.items() if found},
        "published": published,
        "config": places.replaced(_config_differences(ours, theirs), place),
    }


def _config_differences(ours: Sequence[Run], theirs: Sequence[Run]) -> dict[str, list[Any]] | None:
    """Key -> [the baseline's value, this row's], but for the seed; None where either config is not known."""
    configs = [
        ConfigDict(dict(run.settings["config"]))
        for group in (theirs, ours)
        for run in group[:1]
        if isinstance(run.settings.get("config"), Mapping)
    ]
    if len(configs) < 2:
        return None
    found = workdir.differences(*configs)
    return {key: _plain(list(pair)) for key, pair in found.items() if key != "seed"}


def _sum_up(times: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of the seconds a step, the largest memory, the sum of the rest."""

    def known(key: str) -> list[float]:
        return [t[key] for t in times if t[key] is not None]

    step = known("seconds_per_step")
    return {
        "seconds": sum(known("seconds")) if known("seconds") else None,
        "seconds_per_step": sum(step) / len(step) if step else None,
        "device_gib": max(known("device_gib"), default=None),
        "host_gib": max(known("host_gib"), default=None),
    }


def _dict(value: Any) -> dict[str, Any] | None:
    return None if value is None else dataclasses.asdict(value)


def _plain(value: Any) -> Any:
    """For JSON: what it has no kind for becomes the text that a config file would have."""
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
