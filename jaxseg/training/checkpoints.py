"""Checkpoints: saved in the background, checked when read; the latest two and the best are kept.

They lie where `storage` says. A step's folder `N` holds `variables` (params, batch_stats, ema), `optimizer` (opt_state,
step), `digest` (a CRC-32 of every array: a flipped bit in a file would otherwise be read without complaint) and
`metrics`, the validation of that step or nothing. It gets its name when it is complete, or in a bucket its last object,
so that a kill in mid-save leaves the step before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as policies

from jaxseg import paths
from jaxseg.data import sources
from jaxseg.training import class_rows, integrity, processes, starting, storage, workdir
from jaxseg.training.state import TrainState

BEST = "mask/AP"  # the metric that "best" is about
KEEP = 2


class Checkpoints:
    """The checkpoints of a work directory, for the run that writes them. Use as a context manager.

    Args:
      folder: the work directory.
      report: takes a line for the user when a broken checkpoint is passed over.
      place: where they lie, see `storage.choose`; if not given, where the work directory says.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        report: Callable[[str], None] = print,
        place: epath.Path | None = None,
    ):
        self._folder, self._report = place or storage.where(folder), report
        with storage.reaching(self._folder):
            if jax.process_index() == 0:
                integrity.tidy(self._folder, report)
        storage.in_step("tidied")  # the others must not look before
        self._manager = _manager(self._folder, read_only=False)
        self._last: int | None = None
        self._quiet = contextlib.ExitStack()

    def __enter__(self) -> Checkpoints:
        self._quiet.enter_context(integrity.told_once())
        return self

    def __exit__(self, kind, raised, *_) -> None:
        # After another error, one of the save would only hide it.
        try:
            processes.finish(self._manager.close, after=raised)
        except Exception as error:
            if kind is None:
                raise self._failure(error) from error
        finally:
            self._quiet.close()

    @property
    def place(self) -> epath.Path:
        """The folder that they lie in, or what stands for one in a bucket."""
        return self._folder

    @property
    def steps(self) -> list[int]:
        """Steps of the finished checkpoints and of the one that is being written, ascending."""
        return sorted(self._manager.all_steps())

    def metrics(self, step: int) -> dict[str, float]:
        """What was saved as the validation of `step`; {} if it was not validated."""
        return dict(self._manager.metrics(step) or {})

    def save(self, state: TrainState, metrics: dict[str, float] | None = None) -> None:
        """Starts to write `state`; the arrays are copied before this returns.

        Raises:
          OSError: this save or the one before could not be written, e.g. because the disk is full.
        """
        self.wait()
        step = int(state.step)
        variables, optimizer = _items(state)
        try:
            self._last = step
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    variables=ocp.args.StandardSave(variables),
                    optimizer=ocp.args.StandardSave(optimizer),
                    digest=ocp.args.JsonSave(integrity.digest(variables | optimizer)),
                ),
                metrics=metrics or {},
                force=True,
            )
        except Exception as error:
            raise self._failure(error) from error

    def replace(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Writes the checkpoint of a step anew, with its validation, if that makes it the best one."""
        step = int(state.step)
        others = [self.metrics(s).get(BEST, -1.0) for s in self.steps if s != step]
        if others and metrics.get(BEST, -1.0) > max(others):
            self._manager.delete(step)
            self.save(state, metrics)

    def check(self) -> None:
        """Raises OSError if a save in the background has failed; does not wait."""
        try:
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failure(error) from error

    def wait(self) -> None:
        """Waits until the newest save is finished. Raises OSError if it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(error) from error

    def reached_preemption(self, step: int) -> bool:
        """Whether the scheduler takes the machines back (with `jax.distributed` only).

        To be asked by every process after every step: they agree on the step after the latest that one has asked for.
        """
        return multihost_utils.reached_preemption_sync_point(step)

    def restore(self, like: TrainState, changed: str = "") -> TrainState | None:
        """The newest readable checkpoint in the shapes and shardings of `like`; None if there is none at all.

        Args:
          changed: the settings that may have made another model of it, for its error.

        Raises:
          ValueError: it is of another model (the first differing parameter is named), or none is readable.
        """
        broken: list[str] = []
        for step in reversed(self.steps):
            try:
                saved = _everywhere(lambda n=step: _metadata(self._manager, n))
            except Exception as error:
                broken.append(self._pass_over(step, error))
                continue
            _check_same(saved, _items(like), f"checkpoint {step} in {self._folder}", changed)
            try:
                state = _restore_state(self._manager, step, like)
            except (jax.errors.JaxRuntimeError, MemoryError):
                raise  # too large for this machine, not damaged
            except Exception as error:
                broken.append(self._pass_over(step, error))
                continue
            for name in broken:
                integrity.set_aside(self._folder, name)
            storage.in_step("set aside")
            self._manager.reload()
            return state
        if broken:
            raise ValueError(
                f"No checkpoint in {self._folder} can be read (tried {', '.join(broken)}). "
                "Restore the folder from a copy, or start in another --workdir."
            )
        return None

    def _pass_over(self, step: int, error: Exception) -> str:
        self._report(
            f"Checkpoint {step} is damaged and passed over ({integrity.first_line(error)}); "
            "the one before it is used. It is kept beside the others as a `.damaged` folder."
        )
        return str(step)

    def _failure(self, error: Exception) -> OSError:
        try:
            finished = [s for s in storage.finished_steps(self._folder) if s != self._last]
            newest = (
                f"checkpoint {finished[-1]} is the newest" if finished else "there is no other yet"
            )
        except OSError:
            newest = "which are there cannot be seen at this moment"
        return OSError(
            f"Could not write checkpoint {self._last} to {self._folder}: {integrity.cause(error)} "
            f"({newest}). Free some space or mend the folder, then start again with the same command."
        )


def restore_for_eval(
    folder: str | pathlib.Path, step: str | int = "latest", *, report: Callable[[str], None] = print
) -> tuple[ConfigDict, tuple, dict[str, Any], int]:
    """Reads what evaluation and prediction need from a work directory.

    Args:
      folder: the work directory.
      step: "latest", "best" (by validation mask AP) or a number.
      report: takes a line for the user when a damaged newest checkpoint is passed over.

    Returns:
      (config, categories, variables, step): variables = {"params", "batch_stats"} as NumPy arrays, with the averaged
      parameters where the run keeps them.

    Raises:
      FileNotFoundError: no run, or no such checkpoint; the message lists those that are there.
      ValueError: the checkpoint cannot be read.
    """
    config, categories = workdir.load_run(folder)
    where = storage.where(folder)
    steps = storage.finished_steps(where)
    if not steps:
        raise FileNotFoundError(f"There is no finished checkpoint in {where}.")
    with _manager(where, read_only=True) as manager:
        candidates = _choose(manager, steps, step, where)
        for number in candidates:
            try:
                variables = _restore_variables(manager, number)
            except Exception as error:
                if number == candidates[-1]:
                    raise ValueError(
                        f"Checkpoint {number} in {where} cannot be read: {integrity.first_line(error)}"
                    ) from error
                report(
                    f"Checkpoint {number} is damaged and passed over ({integrity.first_line(error)})."
                )
                continue
            break
    params = variables["ema"] or variables["params"]
    return (
        config,
        categories,
        {"params": params, "batch_stats": variables["batch_stats"]},
        number,
    )


def init_from(
    folder: str | pathlib.Path,
    config: ConfigDict,
    like: Mapping[str, tuple[int, ...]],
    categories: Sequence[sources.Category],
    *,
    class_layers: Sequence[str],
    copies: Mapping[str, str] = MappingProxyType({}),
    dispensable: Mapping[str, str] = MappingProxyType({}),
) -> starting.Start:
    """What a new run takes over from another run's newest checkpoint.

    Where the classes differ from that run's, the layers that `class_layers` names start anew, or take rows over as
    `config.init_classes` says, see `class_rows`. Modules that the run lacks are copies of others as `copies` says, see
    `methods.copies` and `paths.copies_of`. What is `dispensable` stays behind where the new model has none, see
    `methods.dispensable`.

    Args:
      folder: the other run's work directory.
      config: of the new run.
      like: the shapes of its variables by path, `params/...` and `batch_stats/...`.
      categories: its classes.

    Raises:
      FileNotFoundError: no run, or none with a finished checkpoint.
      ValueError: the models differ elsewhere; what differs is named, in the parameters and in the settings. Or
        `config.init_classes` does not fit the classes.
    """
    before, theirs, variables, step = restore_for_eval(folder)
    saved = integrity.flat(variables)
    layers = [p for p in like if paths.matches(p.partition("/")[2], class_layers)]
    ours, their_names = ([c.name for c in group] for group in (categories, theirs))
    wish, differ = config.get("init_classes", ""), ours != their_names
    rows, lines = {}, []
    if differ and wish:
        own = {p: like[p] for p in layers}
        rows, lines = class_rows.between(wish, ours, their_names, own, saved)
    try:
        start = starting.of_run(
            saved,
            like,
            renewed=layers if differ and not wish else (),
            copies=copies,
            dispensable=dispensable,
            rows=rows,
        )
        return dataclasses.replace(start, told=[*start.told, *lines])
    except ValueError as error:
        found = f"checkpoint {step} of config.init_from={str(folder)!r}"
        differ = f"{error}{_settings_that_differ(before, config)}"
        # A method that may start from runs of another one says so by its copies.
        if before.get("method") == config.method or any(copies.values()):
            raise ValueError(
                f"The model of this config differs from {found}: {differ} Make the settings of the model equal, or "
                "start from another run."
            ) from error
        first = before.get("init_from")
        raise ValueError(
            f"{found[0].upper()}{found[1:]} is of method={before.get('method')!r}, and this config has "
            f"method={config.method!r}. Use a config of that method, or start from a run of this one"
            f"{f', as that run did from {first}' if first else ''}. What differs: {differ}"
        ) from error


# Of the criterion, the name alone says how many outputs a classifier has.
_OF_NO_LAYER = (
    "model.test.",
    *(f"model.criterion.{k}" for k in ("rpn.", "roi.", "rank_sort.", "weights.", "crowd_iof")),
)


def _settings_that_differ(before: ConfigDict, config: ConfigDict) -> str:
    """A sentence about those that make another model than the run with the config `before` has."""
    differ = {
        key: (old, new)
        for key, (old, new) in workdir.differences(before, config).items()
        if key.startswith("model.") and not key.startswith(_OF_NO_LAYER)
        # A key that came later says nothing about the run's model.
        if old != "absent" and key not in ("model.num_classes", "model.dtype", "model.roi_align")
    }
    return f" {workdir.told(differ)}." if differ else ""


class _Manager(ocp.CheckpointManager):
    """Leaves the question whether there is a preemption to the training loop.

    Orbax asks it too, in a thread, when a save is done: for a step that lies behind. jax takes the last step that was
    asked for as where the process is, and so could agree on a step that one process had passed: it would never stop,
    and the others wait for it.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


def _manager(folder: epath.Path, *, read_only: bool) -> ocp.CheckpointManager:
    score = lambda metrics: metrics.get(BEST, -1.0)  # noqa: E731
    keep = policies.AnyPreservationPolicy(
        [
            policies.LatestN(KEEP),
            policies.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False),
        ]
    )
    options = ocp.CheckpointManagerOptions(
        best_fn=score,  # without it no metrics are written; what is kept is the policy's decision
        preservation_policy=keep,
        cleanup_tmp_directories=not read_only,
        create=not read_only,
        read_only=read_only,
        save_interval_steps=0 if read_only else 1,
    )
    handlers = dict(
        variables=ocp.StandardCheckpointHandler(),
        optimizer=ocp.StandardCheckpointHandler(),
        digest=ocp.JsonCheckpointHandler(),
    )
    quiet = integrity.without_warning("Given directory is read only")  # as was asked for
    with storage.reaching(folder), quiet:
        return _Manager(folder, options=options, item_handlers=handlers)


def _everywhere(function: Callable[[], Any]) -> Any:
    """What a function gives, if it raises on no process."""
    found, met = None, None
    try:
        found = function()
    except Exception as error:
        met = error
    integrity.raise_everywhere(met)
    return found


def _items(state: TrainState) -> tuple[dict, dict]:
    variables = {"params": state.params, "batch_stats": state.batch_stats, "ema": state.ema}
    return variables, {"opt_state": state.opt_state, "step": state.step}


def _metadata(manager: ocp.CheckpointManager, step: int) -> tuple[Any, Any]:
    items = manager.item_metadata(step)
    return items["variables"].tree, items["optimizer"].tree


def _check_same(saved: tuple[Any, Any], wanted: tuple[Any, Any], what: str, changed: str) -> None:
    for ours, theirs in zip(wanted, saved, strict=True):
        try:
            integrity.compare(integrity.flat(theirs), integrity.flat(ours), what)
        except ValueError as error:
            raise ValueError(f"{error}{changed and f' Changed: {changed}.'}") from None


def _restore_state(manager: ocp.CheckpointManager, step: int, like: TrainState) -> TrainState:
    variables, optimizer = _items(like)
    state = like.replace(**_read(manager, step, variables=variables, optimizer=optimizer))
    if int(state.step) != step:
        raise ValueError(f"it holds step {int(state.step)}")
    return state


def _restore_variables(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    tree = _everywhere(lambda: manager.item_metadata(step)["variables"].tree)
    like = jax.tree.map(lambda m: np.zeros(m.shape, m.dtype), tree)
    return _read(manager, step, variables=like)


def _read(manager: ocp.CheckpointManager, step: int, **like: Any) -> dict[str, Any]:
    """What the items of a step hold, as `like` has it, if every process can read it and finds what was saved.

    By the handlers and not by the manager, which waits at its end for all processes, also for one that met an error.
    """
    folder, handler = manager.directory / str(step), ocp.StandardCheckpointHandler()

    def read():
        values = {}
        for name, tree in like.items():
            values |= handler.restore(folder / name, args=ocp.args.StandardRestore(tree))
        return values, ocp.JsonCheckpointHandler().restore(folder / "digest")

    values, digest = _everywhere(read)
    # By itself, because it gathers arrays: all processes begin it, or none.
    _everywhere(lambda: integrity.verify(values, digest))
    return values


def _choose(
    manager: ocp.CheckpointManager, steps: list[int], step: str | int, where: epath.Path
) -> list[int]:
    """The steps to try, in order."""
    if step == "latest":
        return steps[::-1]
    if step == "best":
        scores = {s: (manager.metrics(s) or {}).get(BEST) for s in steps}
        scores = {s: v for s, v in scores.items() if v is not None}
        if not scores:
            raise FileNotFoundError(f"No checkpoint in {where} was validated: there is no best.")
        return [max(scores, key=lambda s: (scores[s], s))]
    if not str(step).isdigit():
        raise ValueError(f"step={step!r}: allowed are latest, best and a number of {steps}.")
    if int(step) not in steps:
        raise FileNotFoundError(f"There is no checkpoint {step} in {where}; there are {steps}.")
    return [int(step)]
