"""What a work directory knows about its run, also while the run goes on or after it was killed."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxseg.data import sources
from jaxseg.report import files, outcome
from jaxseg.training import metrics, validation, workdir

JOB_FILE = "job.json"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A training run as its work directory shows it; or an evaluation alone (the `--out` of eval.py).

    Attributes:
      path: the folder.
      training: whether it is that of a training run.
      config: the run's config; None where neither `run.json` nor `evaluation.json` tells it.
      evaluated: the config that the results were made with: another one where eval.py was given other data or settings.
      categories: the classes, in the order of the class indices; () where the config is not known.
      train, val: the lines of `log.jsonl`, by step; half-written ones and what is no number are left out.
      final: `split`, `images`, `skipped`, `objects`, `seconds`, `box` and `mask` (`summary`, `per_class`; None without
        annotations) as `finished.json` or `metrics.json` has them; and `step`, where it is known. None where there is
        no such file.
      results_path: the COCO results that belong to `final`, or that a split without annotations gave.
      split: the split that `final` and the results are about; None where it is not known.
      finished: whether the run has reached its last step.
      evaluation: what `evaluation.json` says of the results: `workdir`, `step`, `command`, ...; {} without one.
      versions, device, commit, command: where and from what it ran; None (or {}) where that was not recorded.
      status, error: how the job of a table that it is has ended; "" where it is none.
      damaged: files that are there but not as they should be; they are left out.
    """

    path: pathlib.Path
    training: bool = True
    config: ConfigDict | None = None
    evaluated: ConfigDict | None = None
    categories: tuple[sources.Category, ...] = ()
    train: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    val: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    final: dict[str, Any] | None = None
    results_path: pathlib.Path | None = None
    split: str | None = None
    finished: bool = False
    evaluation: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    device: dict[str, Any] | None = None
    commit: str | None = None
    command: tuple[str, ...] | None = None
    status: str = ""
    error: str = ""
    damaged: tuple[pathlib.Path, ...] = ()

    @functools.cached_property
    def results(self) -> list[dict] | None:
        """The COCO results, read when they are first asked for; None where there are none or they are damaged."""
        if self.results_path is None:
            return None
        return files.Files().read(self.results_path, files.is_results)

    @property
    def step(self) -> int:
        """The last step that the log or the results know of; 0 if none."""
        steps = [line["step"] for line in (*self.train, *self.val)]
        known = (self.final or {}).get("step") or self.evaluation.get("step") or 0
        return int(max([*steps, known]))

    @property
    def steps(self) -> int | None:
        """The step that training ends with; None where it is not known."""
        return None if self.config is None else int(self.config.train.steps)

    @property
    def failed(self) -> bool:
        """Whether it is a job of a table that has failed, or could not be started."""
        return self.status in ("failed", "skipped") and not self.finished


def read(path: str | pathlib.Path, split: str | None = None) -> RunFolder:
    """Reads a work directory, or a folder that eval.py has written.

    Args:
      path: the folder.
      split: the split whose results are wanted: of the run itself or of `path/eval/SPLIT-STEP`, the newest. Default:
        the results of the run itself, else the newest evaluation there is.

    Raises:
      FileNotFoundError: there is no such folder, it holds neither a run nor an evaluation, or the split asked for
        was not evaluated.
      ValueError: `run.json` is damaged, or all that there is of an evaluation; or the folder is that of a table.
    """
    path, found = pathlib.Path(path).expanduser(), files.Files()
    training = (path / workdir.RUN_FILE).exists()
    if not training:
        _check_no_table(path)
    job = found.read(path / JOB_FILE, files.is_mapping) or {}
    home = path if training else outcome.run_of(path)
    settings = outcome.settings(home / workdir.RUN_FILE) if home else outcome.Settings()
    shown = outcome.find(path, split, settings.config, found)
    evaluated = shown.settings or settings
    if not training:
        if shown.empty:
            raise _nothing(path, job, found.damaged)
        settings = evaluated
    made, config = settings.made, settings.config
    last = (found.read(path / validation.FINISHED, files.is_finished) or {}).get("step", -1)
    command = job.get("command") or made.get("command")
    return RunFolder(
        path=path,
        training=training,
        config=config,
        evaluated=evaluated.config,
        categories=settings.categories,
        train=files.numbers(metrics.read(path, "train")),
        val=files.numbers(metrics.read(path, "val")),
        final=shown.final,
        results_path=shown.results,
        split=shown.split or (evaluated.config.eval.split if evaluated.config else None),
        finished=bool(training and last >= config.train.steps),
        evaluation=shown.settings.made if shown.settings else {},
        versions=files.mapping(made.get("versions")),
        device=files.mapping(made.get("device")) or None,
        commit=made.get("commit"),
        command=tuple(map(str, command)) if isinstance(command, list) else None,
        status=str(job.get("status") or ""),
        error=str(job.get("error") or ""),
        damaged=tuple(found.damaged),
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
    if run.evaluated is None:
        return None, "the config of the run is not in this folder, so its data is not known"
    try:
        return sources.open_source(run.evaluated.data, run.split), ""
    except (OSError, ValueError) as error:
        return None, str(error)


def _check_no_table(path: pathlib.Path) -> None:
    """Raises ValueError for the work directory of a table, whose report must not be replaced by one of its runs."""
    jobs = sorted(path.glob("runs/*/seed*"))
    results = path / outcome.RESULTS_FILE
    numbers = files.Files().read(results, files.is_mapping) if files.holds_object(results) else None
    if not jobs and not (numbers and {"format", "rows"} <= set(numbers)):
        return
    example = jobs[0] if jobs else path / "runs" / "ROW" / "seed0"
    raise ValueError(
        f"{path} is the work directory of a table: its report is {path / 'report.html'}, which python -m "
        f"jaxseg.reproduce writes. Give the folder of a run, e.g. {example}."
    )


def _nothing(
    path: pathlib.Path, job: Mapping[str, Any], damaged: Sequence[pathlib.Path]
) -> Exception:
    """Why nothing can be said of a folder without a run."""
    if job.get("error"):
        return FileNotFoundError(
            f"{path} has no results to show (job {job.get('status')}): {job['error']}"
        )
    if damaged:
        names = ", ".join(file.name for file in damaged)
        return ValueError(
            f"{path} has no results that can be read: {names} damaged. Evaluate again with eval.py."
        )
    what = "holds neither a training run nor an evaluation" if path.is_dir() else "is no folder"
    return FileNotFoundError(f"{path} {what}: give what train.py --workdir was given.")
