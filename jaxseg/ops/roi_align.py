"""RoIAlign on a `Pyramid`: level assignment, and one shard of images per device."""

from __future__ import annotations

import functools
import math

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

import pallas_kernels
from jaxseg.ops import levels as levels_lib
from jaxseg.structures import Pyramid

BATCH_AXES = ("data", "fsdp")  # mesh axes that a batch is split over


def roi_align(
    pyramid: Pyramid,
    boxes: Float[Array, "B R 4"],
    output_size: int,
    *,
    implementation: str | None = None,
) -> Float[Array, "B R S S C"]:
    """Pools (B, R, 4) boxes (xyxy, input pixels), each from the level its size asks for (FPN, Lin et al. 2017, eq. 1).

    Samples are clamped to the cells of the unpadded image. Returns the pyramid's dtype; no gradient to the boxes.
    """
    levels = levels_lib.fpn_level(boxes, num_levels=len(pyramid.levels))
    pool = functools.partial(
        _pool, strides=pyramid.strides, output_size=output_size, implementation=implementation
    )
    return _per_shard(pool)(pyramid.levels, boxes, levels, pyramid.image_size)


def _pool(features, boxes, levels, image_size, **options):
    return pallas_kernels.multilevel_roi_align(
        features, boxes, levels, image_size=image_size, **options
    )


def _per_shard(pool):
    """Runs `pool` on each device's own images: kernels are opaque to the partitioner, which would gather the batch."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(a for a in BATCH_AXES if a in mesh.axis_names)

    def call(features, boxes, *rest):
        devices = math.prod(mesh.shape[a] for a in axes)
        if devices == 1 or boxes.shape[0] % devices:
            return pool(features, boxes, *rest)
        spec = PartitionSpec(axes)
        # check_vma=False: a Pallas call does not say how its outputs vary over the mesh.
        sharded = jax.shard_map(pool, in_specs=spec, out_specs=spec, check_vma=False)
        return sharded(features, boxes, *rest)

    return call
