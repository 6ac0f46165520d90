"""What a work directory knows about its run, also while the run goes on or after it was killed."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxseg.data import sources
from jaxseg.training import metrics, validation, workdir

RESULTS_FILE = "results.json"
METRICS_FILE = "metrics.json"
JOB_FILE = "job.json"
EVAL_FOLDER = "eval"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A training run as its work directory shows it; or an evaluation alone (the `--out` of eval.py).

    Attributes:
      path: the folder.
      config: the run's config; None for an evaluation that does not lie in a work directory.
      categories: the classes, in the order of the class indices; () where the config is not known.
      train, val: the lines of `log.jsonl`, by step; half-written ones are left out.
      final: `split`, `images`, `skipped`, `objects`, `seconds`, `box` and `mask` (`summary`, `per_class`; None without
        annotations) as `finished.json` or `metrics.json` has them; and `step`, where it is known. None where there is
        no such file.
      results_path: the COCO results that belong to `final`, or that a split without annotations gave.
      finished: whether the run has reached its last step.
      versions, device, commit, command: where and from what it ran; None (or {}) where that was not recorded.
    """

    path: pathlib.Path
    config: ConfigDict | None = None
    categories: tuple[sources.Category, ...] = ()
    train: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    val: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    final: dict[str, Any] | None = None
    results_path: pathlib.Path | None = None
    finished: bool = False
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    device: dict[str, Any] | None = None
    commit: str | None = None
    command: tuple[str, ...] | None = None

    @functools.cached_property
    def results(self) -> list[dict] | None:
        """The COCO results, read when they are first asked for; None where there are none or they are damaged."""
        if self.results_path is None:
            return None
        found = _read_json(self.results_path)
        return found if isinstance(found, list) else None

    @property
    def step(self) -> int:
        """The last step that the log or the results know of; 0 if none."""
        steps = [line["step"] for line in (*self.train, *self.val)]
        return max([*steps, (self.final or {}).get("step") or 0])

    @property
    def steps(self) -> int | None:
        """The step that training ends with; None where it is not known."""
        return None if self.config is None else int(self.config.train.steps)

    @property
    def split(self) -> str | None:
        """The split that `final` and `results` are about; None where it is not known."""
        if self.final and self.final.get("split"):
            return self.final["split"]
        if self.results_path is not None and self.results_path.parent.parent.name == EVAL_FOLDER:
            return self.results_path.parent.name.rpartition("-")[0]
        return None if self.config is None else self.config.eval.split


def read(path: str | pathlib.Path, split: str | None = None) -> RunFolder:
    """Reads a work directory, or a folder that eval.py has written.

    Args:
      path: the folder.
      split: the split whose results are wanted: of the run itself or of `path/eval/SPLIT-STEP`, the newest. Default:
        the results of the run itself, else the newest evaluation there is.

    Raises:
      FileNotFoundError: there is no such folder, it holds neither a run nor an evaluation, or the split asked for
        was not evaluated.
      ValueError: `run.json` is damaged.
    """
    path = pathlib.Path(path).expanduser()
    is_run = (path / workdir.RUN_FILE).exists()
    if not is_run and not any((path / name).exists() for name in (METRICS_FILE, RESULTS_FILE)):
        what = "holds neither a training run nor an evaluation" if path.is_dir() else "is no folder"
        raise FileNotFoundError(f"{path} {what}: give what train.py --workdir was given.")
    home = path if is_run else _run_of_evaluation(path)
    config, categories, run = None, (), {}
    if home is not None:
        config, categories = workdir.load_run(home)
        run = _read_json(home / workdir.RUN_FILE) or {}
    final, results_path = _outcome(path, split, config)
    last = (_read_json(path / validation.FINISHED) or {}).get("step", -1)
    return RunFolder(
        path=path,
        config=config,
        categories=categories,
        train=metrics.read(path, "train"),
        val=metrics.read(path, "val"),
        final=final,
        results_path=results_path,
        finished=bool(is_run and config is not None and last >= config.train.steps),
        versions=run.get("versions") or {},
        device=run.get("device"),
        commit=run.get("commit"),
        command=_command(path, run),
    )


def labels(paths: Sequence[pathlib.Path]) -> list[str]:
    """A short name for each folder: its own, with as many of the folders above it as tell all of them apart."""
    parts = [path.expanduser().absolute().parts for path in paths]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(p[-count:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{path} ({i})" for i, path in enumerate(paths, 1)]


def open_data(run: RunFolder) -> tuple[sources.Source | None, str]:
    """(source, "") of the split that a run was evaluated on, or (None, why it cannot be opened)."""
    if run.config is None:
        return None, "the config of the run is not in this folder, so its data is not known"
    try:
        return sources.open_source(run.config.data, run.split or run.config.eval.split), ""
    except (OSError, ValueError) as error:
        return None, str(error)


def _run_of_evaluation(path: pathlib.Path) -> pathlib.Path | None:
    """The work directory that `path`, an evaluation, lies in as `eval/SPLIT-STEP`."""
    home = path.absolute().parent.parent
    inside = path.absolute().parent.name == EVAL_FOLDER
    return home if inside and (home / workdir.RUN_FILE).exists() else None


def _outcome(
    path: pathlib.Path, split: str | None, config: ConfigDict | None
) -> tuple[dict[str, Any] | None, pathlib.Path | None]:
    """(final, path of the results): the run's own, else of its evaluations."""
    final = _read_json(path / validation.FINISHED)
    if final is None:
        final = _read_json(path / METRICS_FILE)
        if final is not None:
            final = {"step": _step_of(path), **final}
    results = path / RESULTS_FILE
    own = final.get("split") if final else config.eval.split if config is not None else None
    if (final is not None or results.exists()) and split in (None, own):
        return final, results if results.exists() else None
    folders = [
        folder
        for folder in path.glob(f"{EVAL_FOLDER}/*-*")
        if split in (None, folder.name.rpartition("-")[0]) and _step_of(folder) is not None
    ]
    if not folders and split is not None:
        raise FileNotFoundError(
            f"{path} has no results on the split {split!r}: python eval.py --workdir={path} --split={split} makes them."
        )
    if not folders:
        return None, None
    newest = max(folders, key=lambda folder: (_step_of(folder), folder.stat().st_mtime))
    return _outcome(newest, None, config)


def _step_of(folder: pathlib.Path) -> int | None:
    """The step in the name of an evaluation's folder, `SPLIT-STEP`."""
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else None


def _command(path: pathlib.Path, run: dict[str, Any]) -> tuple[str, ...] | None:
    command = (_read_json(path / JOB_FILE) or {}).get("command") or run.get("command")
    return tuple(map(str, command)) if isinstance(command, list) else None


def _read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file; None where there is none, or half of one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
