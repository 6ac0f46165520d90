"""RoIAlign on a `Pyramid`: level assignment, and one shard of images per device."""

from __future__ import annotations

import functools

from jaxtyping import Array, Float

import pallas_kernels
from jaxseg.ops import levels as levels_lib
from jaxseg.ops import shards
from jaxseg.structures import Pyramid


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
    return shards.per_shard(pool)(pyramid.levels, boxes, levels, pyramid.image_size)


def _pool(features, boxes, levels, image_size, **options):
    return pallas_kernels.multilevel_roi_align(
        features, boxes, levels, image_size=image_size, **options
    )
