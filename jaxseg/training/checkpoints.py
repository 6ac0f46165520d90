"""Checkpoints: saved in the background, checked when read; the latest two and the best are kept.

They lie where `claims` says. A step's folder `N` holds `variables` (params, batch_stats, ema), `optimizer` (opt_state,
step), `digest` (a CRC-32 of every array: a flipped bit in a file would otherwise be read without complaint) and
`metrics`, the validation of that step or nothing. It gets its name when it is complete, or in a bucket its last object,
so that a kill in mid-save leaves the step before.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from jaxseg.training import checkpoint_io, claims, integrity, processes, storage, workdir
from jaxseg.training.state import TrainState

BEST = "mask/AP"  # the metric that "best" is about
KEEP = 2


class Checkpoints:
    """The checkpoints of a work directory, for the run that writes them. Use as a context manager.

    Args:
      folder: the work directory.
      report: takes a line for the user when a broken checkpoint is passed over.
      place: where they lie, see `claims.choose`; if not given, where the work directory says.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        report: Callable[[str], None] = print,
        place: epath.Path | None = None,
    ):
        self._folder, self._report = place or claims.where(folder), report
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
        self._last = int(state.step)
        try:
            checkpoint_io.write(self._manager, state, metrics or {})
        except Exception as error:
            raise self._failure(error) from error

    def replace(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Writes the checkpoint of a step anew, with its validation, if that makes it the best one."""
        step = int(state.step)
        others = [_score(self.metrics(s)) for s in self.steps if s != step]
        if others and _score(metrics) > max(others):
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
                saved = integrity.everywhere(
                    lambda n=step: checkpoint_io.metadata(self._manager, n)
                )
            except Exception as error:
                broken.append(self._pass_over(step, error))
                continue
            integrity.check_same(
                saved, checkpoint_io.items_of(like), f"checkpoint {step} in {self._folder}", changed
            )
            try:
                state = checkpoint_io.read_state(self._manager, step, like)
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
    where = claims.where(folder)
    steps = storage.finished_steps(where)
    if not steps:
        raise FileNotFoundError(f"There is no finished checkpoint in {where}.")
    with _manager(where, read_only=True) as manager:
        candidates = _choose(manager, steps, step, where)
        for number in candidates:
            try:
                variables = checkpoint_io.read_variables(manager, number)
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


def _manager(folder: epath.Path, *, read_only: bool) -> ocp.CheckpointManager:
    return checkpoint_io.make_manager(folder, score=_score, keep=KEEP, read_only=read_only)


def _score(metrics: Mapping[str, float]) -> float:
    """By which a checkpoint is the best; those that were not validated come last."""
    return metrics.get(BEST, -1.0)


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
