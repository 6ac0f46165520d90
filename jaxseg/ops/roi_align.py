"""RoIAlign and Shape-aware RoIAlign on a `Pyramid`: level assignment, and one shard of images per device."""

from __future__ import annotations

import dataclasses

from jaxtyping import Array, Float

import pallas_kernels
from jaxseg.ops import levels as levels_lib
from jaxseg.ops import shards
from jaxseg.structures import Pyramid

IMPLEMENTATIONS = ("auto", *pallas_kernels.IMPLEMENTATIONS)  # auto: the best one that applies


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Where RoIAlign samples. The defaults are ours; see `roi_sampling` and `ignore_padding` in configs/common.

    Attributes:
      ratio: samples a bin and axis; 0: as many as a bin spans cells, rounded up, at most `max_ratio`.
      max_ratio: of ratio 0.
      aligned: shifts boxes by half a cell, so that cell centres lie at +0.5.
      level_tolerance: see `levels.fpn_level`.
      own_cells: clamps samples to the cells of the unpadded image; else to those of the canvas, padding included.
    """

    ratio: int = 2
    max_ratio: int = 4
    aligned: bool = True
    level_tolerance: float = 0.0
    own_cells: bool = True


def roi_align(
    pyramid: Pyramid,
    boxes: Float[Array, "B R 4"],
    output_size: int,
    *,
    sampling: Sampling = Sampling(),
    implementation: str = "auto",
) -> Float[Array, "B R S S C"]:
    """Pools (B, R, 4) boxes (xyxy, input pixels), each from the level its size asks for (FPN, Lin et al. 2017, eq. 1).

    Samples are clamped to the cells of the unpadded image, or of the canvas (`sampling`). Returns the pyramid's dtype;
    no gradient to the boxes.
    """
    operator = pallas_kernels.multilevel_roi_align
    return _pool(operator, pyramid, boxes, (), output_size, sampling, implementation)


def shape_aware_roi_align(
    pyramid: Pyramid,
    boxes: Float[Array, "B R 4"],
    probabilities: Float[Array, "B R Hp Wp"],
    output_size: int,
    *,
    sampling: Sampling = Sampling(),
    implementation: str = "auto",
) -> Float[Array, "B R S S C"]:
    """`roi_align` with each sample times the probability at its place in the box (MR R-CNN, Ding et al. 2019, eq. 4).

    `probabilities` are aligned with the boxes, rows are y. Gradients reach the pyramid and the probabilities.
    """
    operator = pallas_kernels.shape_aware_roi_align
    return _pool(operator, pyramid, boxes, (probabilities,), output_size, sampling, implementation)


@dataclasses.dataclass(frozen=True)
class Pool:
    """Both operators with a model's settings: `pool(pyramid, boxes, size)` is `roi_align`."""

    sampling: Sampling = Sampling()
    implementation: str = "auto"

    def __call__(
        self, pyramid: Pyramid, boxes: Float[Array, "B R 4"], output_size: int
    ) -> Float[Array, "B R S S C"]:
        return roi_align(pyramid, boxes, output_size, **vars(self))

    def finest(
        self, pyramid: Pyramid, boxes: Float[Array, "B R 4"], output_size: int
    ) -> Float[Array, "B R S S C"]:
        """`roi_align` of the finest level alone, whatever the size of the boxes."""
        return self(levels_lib.single(pyramid, 0), boxes, output_size)

    def shape_aware(
        self,
        pyramid: Pyramid,
        boxes: Float[Array, "B R 4"],
        probabilities: Float[Array, "B R Hp Wp"],
        output_size: int,
    ) -> Float[Array, "B R S S C"]:
        return shape_aware_roi_align(pyramid, boxes, probabilities, output_size, **vars(self))

    def of_own_cells(self) -> Pool:
        """The same, with samples from the unpadded image alone."""
        sampling = dataclasses.replace(self.sampling, own_cells=True)
        return dataclasses.replace(self, sampling=sampling)


def _pool(operator, pyramid: Pyramid, boxes, more, output_size, sampling, implementation):
    levels = levels_lib.fpn_level(
        boxes, num_levels=len(pyramid.levels), tolerance=sampling.level_tolerance
    )

    def pool(features, boxes, levels, image_size, *more):
        return operator(
            features,
            boxes,
            levels,
            *more,
            image_size=image_size if sampling.own_cells else None,
            strides=pyramid.strides,
            output_size=output_size,
            sampling_ratio=sampling.ratio,
            max_sampling_ratio=sampling.max_ratio,
            aligned=sampling.aligned,
            implementation=None if implementation == "auto" else implementation,
        )

    return shards.per_shard(pool)(pyramid.levels, boxes, levels, pyramid.image_size, *more)
