"""From a table and options to jobs: the exact commands, in an order in which each finds what it needs."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxseg.reproduce import records, row_config, tables
from jaxseg.reproduce.options import SCALE_WORDS, Options, parse_settings

RUNS = records.RUNS


@dataclasses.dataclass(frozen=True)
class Job:
    """One row with one seed.

    Attributes:
      row: the row's name.
      folder: its work directory, or the results folder of an evaluation.
      command: as one would type it, from the top folder of a checkout.
      needs: name of the row whose job of the same seed must be finished before.
      steps: of the training; 0 for an evaluation.
      lacks: what it cannot run without and is not there, for the user.
    """

    row: str
    seed: int
    folder: pathlib.Path
    command: tuple[str, ...]
    needs: str | None = None
    steps: int = 0
    lacks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.row} seed {self.seed}"

    @property
    def source(self) -> str | None:
        """`name` of the job that it needs."""
        return self.needs and f"{self.needs} seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What the jobs of one row share."""

    arguments: tuple[str, ...]  # --config=... and the settings
    steps: int
    lacks: tuple[str, ...]


def jobs(table: Any, options: Options) -> list[Job]:
    """The jobs of a checked table. All rows of seed 0 come first, so that a first table exists early.

    All rows' configs are loaded and checked, also of rows that are not asked for.

    Raises:
      ValueError: an option or a row's config makes no sense; the message names the row.
    """
    rows, plans = _plans(table, options)
    chosen = set(select(table, options.rows)) | set(added(table, options.rows))
    names = [name for name in ordered(table) if name in chosen]
    seeds = table.seeds if options.seeds is None else options.seeds
    return _shard(
        [_job(rows[n], k, plans[n], options) for k in range(seeds) for n in names], options.shard
    )


def others(table: Any, options: Options, chosen: Sequence[Job]) -> list[Job]:
    """The jobs that are not among the `chosen` ones, but have folders: of other rows, more seeds, other shards.

    What they have measured is in the table, too. Their commands are those that `options` would give them.

    Raises:
      ValueError: as `jobs` does.
    """
    rows, plans = _plans(table, options)
    known, place = {job.name for job in chosen}, pathlib.Path(options.workdir) / RUNS
    found = [
        _job(row, seed, plans[name], options)
        for name, row in rows.items()
        for seed in sorted(records.seeds(place / name))
    ]
    return [job for job in found if job.name not in known]


def select(table: Any, patterns: Sequence[str]) -> list[str]:
    """Names of the rows that one of the patterns fits, in the table's order; all rows without patterns.

    Raises:
      ValueError: a pattern fits no row.
    """
    names = [row.name for row in table.rows]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(
                f"--rows: there is no row {tables.suggest(pattern, names)}. Rows: {', '.join(names)}."
            )
    return [n for n in names if not patterns or any(fnmatch.fnmatchcase(n, p) for p in patterns)]


def added(table: Any, patterns: Sequence[str]) -> list[str]:
    """Names of the rows that the selected ones start from, as far as they are not selected themselves."""
    rows = {row.name: row for row in table.rows}
    chosen = select(table, patterns)
    found: dict[str, None] = {}
    for name in chosen:
        while (name := tables.need(rows[name])) is not None:
            found[name] = None
    return [name for name in rows if name in found and name not in chosen]


def ordered(table: Any) -> list[str]:
    """Names of all rows in the table's order, but each after the one that it needs."""
    rows = {row.name: row for row in table.rows}
    done: dict[str, None] = {}
    for name in rows:
        chain = [name]
        while (before := tables.need(rows[chain[-1]])) is not None:
            chain.append(before)
        done.update(dict.fromkeys(reversed(chain)))
    return list(done)


def _plans(table: Any, options: Options) -> tuple[dict[str, Any], dict[str, _Plan]]:
    """Rows and plans by their names."""
    parse_settings(options.settings)  # its own mistakes come before those of rows
    _check_weights(table, options)
    rows = {row.name: row for row in table.rows}
    return rows, {name: _plan(row, rows, table, options) for name, row in rows.items()}


def _plan(row: Any, rows: Mapping[str, Any], table: Any, options: Options) -> _Plan:
    trained = rows[row.evaluate] if row.evaluate else row
    overrides = {**trained.overrides, **row.overrides}
    settings = parse_settings(options.settings)
    both = [key for key in settings if key in overrides]
    if both:
        raise ValueError(
            f"--set={both[0]}={settings[both[0]]}: row {row.name!r} sets {both[0]} itself ({overrides[both[0]]!r})."
        )
    scale = _scale(table, options)
    words = [table.data if options.data is None else options.data, SCALE_WORDS[scale]]
    try:
        arguments = (
            f"--config={_with_words(trained.config, words)}",
            *(row_config.assignment(key, value) for key, value in overrides.items()),
            *(f"--config.{key}={value}" for key, value in settings.items()),
        )
        config = row_config.load(arguments)
        row_config.check_values(config, overrides)
        row_config.check(config)
    except ValueError as error:
        raise ValueError(f"Row {row.name!r}: {error}") from error
    splits = [config.eval.split] if row.evaluate else ["train", config.eval.split]
    lacks = [
        f"{path} (data: --data=coco,root=DIR or root=DIR)"
        for path in row_config.missing_data(config, splits)
    ]
    lacks += _missing_weights(row, config, scale, options)
    return _Plan(arguments, 0 if row.evaluate else config.train.steps, tuple(lacks))


def _scale(table: Any, options: Options) -> str:
    scale = options.scale or table.scale
    if scale not in SCALE_WORDS:
        raise ValueError(f"--scale={scale}: allowed are {', '.join(SCALE_WORDS)}.")
    return scale


def _with_words(config: str, words: Sequence[str]) -> str:
    file, _, given = config.partition(":")
    arguments = ",".join(word for word in (given, *words) if word)
    return f"{file}:{arguments}" if arguments else file


def _missing_weights(row: Any, config: Any, scale: str, options: Options) -> list[str]:
    name = row.weights
    if not name:
        return []
    file = options.weights.get(name)
    if file is None:
        if not row_config.needs_weights(config):
            return []
        return [f"weights {name} (--weights={name}=FILE; frozen layers need them)"]
    if "://" in file or os.path.exists(file):
        return []
    return [f"{file} (--weights={name}={file})"]


def _check_weights(table: Any, options: Options) -> None:
    names = sorted({row.weights for row in table.rows if row.weights})
    for name in options.weights:
        if name not in names:
            known = f"known are {', '.join(names)}" if names else "no row takes any"
            raise ValueError(f"--weights: no row starts from {name!r}; {known}.")
    scale = _scale(table, options)
    if options.weights and scale != "full":
        raise ValueError(
            f"--weights: at --scale={scale} all rows train small models from nothing, which these weights do not fit. "
            "Leave them out."
        )


def _job(row: Any, seed: int, plan: _Plan, options: Options) -> Job:
    def place(name: str) -> str:
        return os.path.join(options.workdir, RUNS, name, f"seed{seed}")

    config, *settings = plan.arguments
    folder = place(row.name)
    if row.evaluate:
        command = [options.evaluate, f"--workdir={place(row.evaluate)}", config, *settings]
        command += [f"--out={folder}"]
    else:
        start = place(row.start_from) if row.start_from else options.weights.get(row.weights)
        command = [options.train, config, f"--workdir={folder}", f"--config.seed={seed}"]
        command += [f"--config.init_from={start}"] if start else []
        command += settings
    return Job(
        row=row.name,
        seed=seed,
        folder=pathlib.Path(folder),
        command=("python", *command),
        needs=tables.need(row),
        steps=plan.steps,
        lacks=plan.lacks,
    )


def _shard(every: list[Job], shard: tuple[int, int]) -> list[Job]:
    """The jobs of one of n shards of about the same number of steps; what needs each other stays together."""
    needs = {job.row: job.needs for job in every}

    def root(name: str) -> str:
        while needs[name] is not None:
            name = needs[name]
        return name

    costs: dict[tuple[int, str], int] = {}
    for job in every:
        chain = job.seed, root(job.row)
        costs[chain] = costs.get(chain, 0) + max(1, job.steps)
    loads, chosen = [0] * shard[1], set()
    for chain in sorted(costs, key=costs.get, reverse=True):
        least = loads.index(min(loads))
        loads[least] += costs[chain]
        if least == shard[0] - 1:
            chosen.add(chain)
    return [job for job in every if (job.seed, root(job.row)) in chosen]
