"""The mesh, and what lies on it: batches split over the devices, parameters whole on each or split over some.

The mesh has the axis `data`, and with `config.mesh.fsdp` = F > 1 a second one, `fsdp`, of F neighbours that share one
copy of the parameters, their averages and the optimizer's state. A batch is split over all devices in either case, and
the step computes the same: a device gathers what it needs of its neighbours' parameters, and keeps its part of the
gradients.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxseg.ops.shards import BATCH_AXES
from jaxseg.training.state import TrainState

DATA, FSDP = BATCH_AXES
# Elements. What is smaller lies whole on each device: gathering it would cost more than it saves.
SMALLEST = 2**16


def checked(fsdp: Any) -> int:
    """`config.mesh.fsdp`; raises ValueError where it is no number of devices."""
    if isinstance(fsdp, bool) or not isinstance(fsdp, int) or fsdp < 1:
        raise ValueError(
            f"config.mesh.fsdp={fsdp!r}: must be a whole number >= 1, the devices that share one copy of the "
            "parameters (1: each has its own)."
        )
    return fsdp


def make_mesh(devices: Iterable[jax.Device] | None = None, fsdp: int = 1) -> Mesh:
    """A mesh ("data",) over the given devices, by default over all; ("data", "fsdp") if `fsdp` of them share a copy.

    Raises:
      ValueError: `fsdp` does not divide their number.
    """
    devices = list(jax.devices() if devices is None else devices)
    count = len(devices)
    if count % fsdp:
        allowed = " or ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise ValueError(
            f"config.mesh.fsdp={fsdp} does not divide the {count} device{'s' if count > 1 else ''}. Take {allowed}."
        )
    sizes = {DATA: count // fsdp} | ({FSDP: fsdp} if fsdp > 1 else {})
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what lies whole on each device: scalars, statistics, and parameters without an axis `fsdp`."""
    return NamedSharding(mesh, PartitionSpec())


def of_shape(shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """The sharding of a parameter: along its largest dimension that `fsdp` divides, of two the last."""
    parts = _parts(mesh)
    fit = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or not fit or math.prod(shape) < SMALLEST:
        return replicated(mesh)
    split = max(fit, key=lambda axis: (shape[axis], axis))
    return NamedSharding(
        mesh, PartitionSpec(*(FSDP if a == split else None for a in range(split + 1)))
    )


def of_parameters(tree: Any, mesh: Mesh) -> Any:
    """The shardings of a tree of parameters, gradients, averages or momenta, which are those of their shapes."""
    return jax.tree.map(lambda x: of_shape(x.shape, mesh), tree)


def of_state(state: TrainState, mesh: Mesh) -> TrainState:
    """The shardings that a state is to have, given as arrays or as shapes; statistics lie whole on each device."""
    statistics = jax.tree.map(lambda _: replicated(mesh), state.batch_stats)
    return of_parameters(state, mesh).replace(batch_stats=statistics)


def lying(tree: Any) -> Any:
    """The shardings that a tree of arrays, or of shapes with shardings, has."""
    return jax.tree.map(lambda x: x.sharding, tree)


def told(mesh: Mesh) -> str:
    """What the user should know of how parameters lie on a mesh."""
    parts = _parts(mesh)
    return f", {parts} of them to each copy of the parameters" if parts > 1 else ""


def gathered(tree: Any, mesh: Mesh) -> Any:
    """Within a computation: parameters as they are computed with, whole on each device.

    Asked for, so that it is the parameters that travel; left alone, the partitioner gathers activations instead.
    """
    if _parts(mesh) == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def scattered(tree: Any, mesh: Mesh) -> Any:
    """Within a computation: parameters or gradients as they are kept."""
    if _parts(mesh) == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, of_parameters(tree, mesh))


def whole(tree: Any, mesh: Mesh) -> Any:
    """Arrays gathered on each device; every process has to call it. Those that lie so are passed on."""
    if all(x.is_fully_replicated for x in jax.tree.leaves(tree)):
        return tree
    # Waited for: on CPUs a collective operation that comes next may otherwise overtake it in one of the processes.
    return jax.block_until_ready(jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree))


def batch_axes(mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """The axes of a mesh that a batch is split over."""
    return tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of everything whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(batch_axes(mesh)))


def check_batch(batch_size: int, accumulate: int, mesh: Mesh, *, key: str) -> None:
    """Sees to it that a batch splits evenly over the devices and the accumulated parts.

    Raises:
      ValueError: it does not; the message holds the numbers and the nearest sizes that would do.
    """
    devices = mesh.size
    if batch_size < 1 or batch_size % (devices * accumulate):
        unit = devices * accumulate
        near = sorted({max(1, batch_size // unit) * unit, (batch_size // unit + 1) * unit})
        parts = f" x optim.accumulate={accumulate}" if accumulate > 1 else ""
        raise ValueError(
            f"config.{key}={batch_size} is not divisible by {devices} "
            f"device{'s' if devices > 1 else ''}{parts}. Take {' or '.join(map(str, near))}."
        )


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Splits a tree of NumPy arrays over the devices; each process hands in its own rows."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )


def prefetch(host_batches: Iterable[Any], mesh: Mesh, size: int = 2) -> Iterator[tuple[Any, Any]]:
    """Yields (host batch, its `batch` on the devices), with up to `size` transfers on their way."""
    queue: collections.deque[tuple[Any, Any]] = collections.deque()
    for host in host_batches:
        queue.append((host, put_batch(host.batch, mesh)))
        if len(queue) >= size:
            yield queue.popleft()
    yield from queue


def _parts(mesh: Mesh | AbstractMesh) -> int:
    return mesh.shape.get(FSDP, 1)
