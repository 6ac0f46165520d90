"""Work that each device does on its own images."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

BATCH_AXES = ("data", "fsdp")  # mesh axes that a batch is split over


def per_shard(function: Callable) -> Callable:
    """`function`, each device calling it with its own part of the batch; for functions that treat images apart.

    Every array that goes in or comes out has the batch as its leading axis. Left alone, the partitioner gathers the
    whole batch on every device for what is opaque to it: Pallas kernels, and top-k. The mesh is that of
    `jax.set_mesh`; without one, or with a batch that does not divide, this is a plain call.
    """

    def call(*args):
        mesh = jax.sharding.get_abstract_mesh()
        axes = tuple(a for a in BATCH_AXES if a in mesh.axis_names)
        devices = math.prod(mesh.shape[a] for a in axes)
        batch = jax.tree.leaves(args)[0].shape[0]
        if devices == 1 or batch % devices:
            return function(*args)
        spec = PartitionSpec(axes)
        # check_vma=False: a Pallas call does not say how its outputs vary over the mesh.
        return jax.shard_map(function, in_specs=spec, out_specs=spec, check_vma=False)(*args)

    return call
