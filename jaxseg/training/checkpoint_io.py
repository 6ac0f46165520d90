"""Checkpoints through Orbax: its manager, the items of a step, and how they are written and read.

What one process cannot read, all of them take for unreadable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from jaxseg.training import integrity, storage
from jaxseg.training.state import TrainState


class _Manager(ocp.CheckpointManager):
    """Leaves the question whether there is a preemption to the training loop.

    Orbax asks it too, in a thread, when a save is done: for a step that lies behind. jax takes the last step that was
    asked for as where the process is, and so could agree on a step that one process had passed: it would never stop,
    and the others wait for it.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


def make_manager(
    folder: epath.Path, *, score: Callable[[Mapping[str, float]], float], keep: int, read_only: bool
) -> ocp.CheckpointManager:
    """Orbax's manager of a folder, which keeps the latest `keep` checkpoints and the one with the best `score`."""
    kept = policies.AnyPreservationPolicy(
        [
            policies.LatestN(keep),
            policies.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False),
        ]
    )
    options = ocp.CheckpointManagerOptions(
        best_fn=score,  # without it no metrics are written; what is kept is the policy's decision
        preservation_policy=kept,
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


def items_of(state: TrainState) -> tuple[dict, dict]:
    """The items `variables` and `optimizer` of a state, as they are written."""
    variables = {"params": state.params, "batch_stats": state.batch_stats, "ema": state.ema}
    return variables, {"opt_state": state.opt_state, "step": state.step}


def write(manager: ocp.CheckpointManager, state: TrainState, metrics: Mapping[str, float]) -> None:
    """Starts to write a state as the checkpoint of its step; the arrays are copied before this returns."""
    variables, optimizer = items_of(state)
    manager.save(
        int(state.step),
        args=ocp.args.Composite(
            variables=ocp.args.StandardSave(variables),
            optimizer=ocp.args.StandardSave(optimizer),
            digest=ocp.args.JsonSave(integrity.digest(variables | optimizer)),
        ),
        metrics=metrics,
        force=True,
    )


def metadata(manager: ocp.CheckpointManager, step: int) -> tuple[Any, Any]:
    """Shapes and dtypes of the saved `variables` and `optimizer`, as trees; no array is read."""
    items = manager.item_metadata(step)
    return items["variables"].tree, items["optimizer"].tree


def read_state(manager: ocp.CheckpointManager, step: int, like: TrainState) -> TrainState:
    """The state of a checkpoint, in the shapes and shardings of `like`.

    Raises on all processes where one cannot read it, or where it is not what was saved.
    """
    variables, optimizer = items_of(like)
    state = like.replace(**_read(manager, step, variables=variables, optimizer=optimizer))
    if int(state.step) != step:
        raise ValueError(f"it holds step {int(state.step)}")
    return state


def read_variables(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """The variables of a checkpoint as NumPy arrays; raises as `read_state` does."""
    tree = integrity.everywhere(lambda: manager.item_metadata(step)["variables"].tree)
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

    values, digest = integrity.everywhere(read)
    # By itself, because it gathers arrays: all processes begin it, or none.
    integrity.everywhere(lambda: integrity.verify(values, digest))
    return values
