"""RoIAlign and Shape-aware RoIAlign on a `Pyramid`: level assignment, and one shard of images per device."""

from __future__ import annotations

from jaxtyping import Array, Float

import pallas_kernels
from jaxseg.ops import levels as levels_lib
from jaxseg.ops import shards
from jaxseg.structures import Pyramid

IMPLEMENTATIONS = ("auto", *pallas_kernels.IMPLEMENTATIONS)  # auto: the best one that applies


def roi_align(
    pyramid: Pyramid,
    boxes: Float[Array, "B R 4"],
    output_size: int,
    *,
    implementation: str = "auto",
) -> Float[Array, "B R S S C"]:
    """Pools (B, R, 4) boxes (xyxy, input pixels), each from the level its size asks for (FPN, Lin et al. 2017, eq. 1).

    Samples are clamped to the cells of the unpadded image. Returns the pyramid's dtype; no gradient to the boxes.
    """
    return _pool(
        pallas_kernels.multilevel_roi_align, pyramid, boxes, (), output_size, implementation
    )


def shape_aware_roi_align(
    pyramid: Pyramid,
    boxes: Float[Array, "B R 4"],
    probabilities: Float[Array, "B R Hp Wp"],
    output_size: int,
    *,
    implementation: str = "auto",
) -> Float[Array, "B R S S C"]:
    """`roi_align` with each sample times the probability at its place in the box (MR R-CNN, Ding et al. 2019, eq. 4).

    `probabilities` are aligned with the boxes, rows are y. Gradients reach the pyramid and the probabilities.
    """
    return _pool(
        pallas_kernels.shape_aware_roi_align,
        pyramid,
        boxes,
        (probabilities,),
        output_size,
        implementation,
    )


def _pool(operator, pyramid: Pyramid, boxes, more, output_size, implementation):
    levels = levels_lib.fpn_level(boxes, num_levels=len(pyramid.levels))

    def pool(features, boxes, levels, image_size, *more):
        return operator(
            features,
            boxes,
            levels,
            *more,
            image_size=image_size,
            strides=pyramid.strides,
            output_size=output_size,
            implementation=None if implementation == "auto" else implementation,
        )

    return shards.per_shard(pool)(pyramid.levels, boxes, levels, pyramid.image_size, *more)
