"""Which results of a folder a report shows: those of the run itself, or of one of its evaluations."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from ml_collections import ConfigDict

from jaxseg.data import sources
from jaxseg.report import files
from jaxseg.training import validation, workdir

RESULTS_FILE = "results.json"
METRICS_FILE = "metrics.json"
EVAL_FOLDER = "eval"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `run.json` or `evaluation.json` holds; `made` is all of it as it stands there."""

    config: ConfigDict | None = None
    categories: tuple[sources.Category, ...] = ()
    made: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Results: the metrics, the file of the detections, their split, and what `evaluation.json` says of them."""

    final: dict[str, Any] | None = None
    results: pathlib.Path | None = None
    split: str | None = None
    settings: Settings | None = None

    @property
    def empty(self) -> bool:
        return self.final is None and self.results is None


def settings(path: pathlib.Path) -> Settings:
    """Reads a `run.json` or an `evaluation.json`.

    Raises:
      ValueError: it is damaged.
    """
    config, categories = workdir.load_settings(path)
    try:
        int(config.train.steps), str(config.eval.split), config.data.source, config.method
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return Settings(config, categories, json.loads(path.read_text(encoding="utf-8")))


def run_of(path: pathlib.Path) -> pathlib.Path | None:
    """The work directory that `path`, an evaluation, lies in as `eval/SPLIT-STEP`; None if it does not."""
    home = path.absolute().parent.parent
    inside = path.absolute().parent.name == EVAL_FOLDER
    return home if inside and (home / workdir.RUN_FILE).exists() else None


def find(
    path: pathlib.Path, split: str | None, config: ConfigDict | None, found: files.Files
) -> Outcome:
    """The results of the folder itself, else of the newest of its evaluations.

    Args:
      path: the folder.
      split: the split that is wanted; None for any.
      config: the run's config, which tells the split where the results do not.
      found: notes damaged files.

    Raises:
      FileNotFoundError: there are no results on the split.
    """
    own = _of_folder(path, found)
    own_split = own.split or (config.eval.split if config is not None else None)
    if not own.empty and split in (None, own_split):
        return own
    folders = [
        folder
        for folder in path.glob(f"{EVAL_FOLDER}/*-*")
        if split in (None, folder.name.rpartition("-")[0]) and _step_of(folder) is not None
    ]
    if folders:
        newest = max(folders, key=lambda folder: (_step_of(folder), folder.stat().st_mtime))
        return _of_folder(newest, found)
    if split is None:
        return own
    raise FileNotFoundError(
        f"{path} has no results on the split {split!r}: python eval.py --workdir={path} --split={split} makes them."
    )


def _of_folder(folder: pathlib.Path, found: files.Files) -> Outcome:
    made = None
    final = found.read(folder / validation.FINISHED, files.is_finished)
    if final is None:
        made = _evaluation(folder, found)
        step = made.made.get("step") if made else _step_of(folder)
        final = found.read(folder / METRICS_FILE, files.is_metrics)
        final = final and {"step": step, **final}
    results = folder / RESULTS_FILE
    if results.exists() and not files.holds_list(results):
        found.damaged.append(results)
    named = _step_of(folder) is not None and folder.absolute().parent.name == EVAL_FOLDER
    if final:
        split = final["split"]
    elif made:
        split = made.config.eval.split
    else:
        split = folder.name.rpartition("-")[0] if named else None
    return Outcome(final, results if files.holds_list(results) else None, split, made)


def _evaluation(folder: pathlib.Path, found: files.Files) -> Settings | None:
    path = folder / workdir.EVALUATION_FILE
    if not path.exists():
        return None
    try:
        noted = settings(path)
    except ValueError:
        noted = None
    if noted is None or not files.is_count(noted.made.get("step")):
        found.damaged.append(path)
        return None
    return noted


def _step_of(folder: pathlib.Path) -> int | None:
    """The step in the name of an evaluation's folder, `SPLIT-STEP`."""
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else None
