"""The mesh, and what lies on it: batches split over the devices, parameters on every one of them."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxseg.ops.shards import BATCH_AXES

AXES = ("data",)  # of the meshes made here


def make_mesh(devices: Iterable[jax.Device] | None = None) -> Mesh:
    """A mesh ("data",) over the given devices, by default over all."""
    devices = list(jax.devices() if devices is None else devices)
    return jax.make_mesh((len(devices),), AXES, axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters and of scalars."""
    return NamedSharding(mesh, PartitionSpec())


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
