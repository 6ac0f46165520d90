"""RoIAlign and Shape-aware RoIAlign over a feature pyramid: the public functions."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from pallas_kernels.roi_align import arguments, choice, grid, guidance, operator


def multilevel_roi_align(
    features: Sequence[jax.Array],
    boxes: jax.Array,
    levels: jax.Array,
    *,
    strides: Sequence[int],
    output_size: int | tuple[int, int],
    sampling_ratio: int = 2,
    aligned: bool = True,
    image_size: jax.Array | None = None,
    max_sampling_ratio: int = 4,
    implementation: str | operator.Implementation | None = None,
) -> jax.Array:
    """Pools each box from its own pyramid level (He et al. 2017, section 3; half-pixel form when `aligned`).

    Each of the h x w bins is the mean of `sampling_ratio`^2 bilinear samples. A sample more than one cell off the map
    counts as zero, one closer is clamped to the border (as torchvision and Detectron2 do).

    Args:
      features: one (B, H_l, W_l, C) floating array a level, all of one dtype.
      boxes: (B, R, 4) xyxy in image pixels, continuous coordinates. Empty, NaN and outside boxes give finite values.
      levels: (B, R) integers, index into `features`, from 0; others are clipped to the levels that there are.
      strides: image pixels per cell, one a level (1 / `spatial_scale` of torchvision).
      output_size: bins, (h, w) or one number for both.
      sampling_ratio: samples per bin and axis. 0: as many as the bin spans cells, rounded up (the default of Detectron2
        and MMDetection), but at most `max_sampling_ratio`; exact where a box needs no more.
      aligned: shift by half a cell, and allow boxes smaller than one cell.
      image_size: (B, 2) height and width in pixels of the part of the canvas that holds the image; samples are clamped
        to its cells, so that what lies in the padding does not matter. None: the whole canvas.
      max_sampling_ratio: of `sampling_ratio=0`; the cost grows with its square.
      implementation: "xla", "mosaic_gpu", "triton" or "tpu" (see pallas_kernels/README.md), or an `Implementation`.
        None: the best one that covers these shapes, dtype and the default device (`jax.default_device`).

    Returns:
      (B, R, h, w, C) in the features' dtype, accumulated in float32. Gradients reach `features` only; they are summed
      in float32. Differentiable in reverse mode, once; with "xla" again.

    Raises:
      ValueError: shapes that do not belong together; an implementation that is unknown or does not apply, and why.
    """
    return _pool(
        features,
        boxes,
        levels,
        None,
        image_size,
        implementation,
        strides=strides,
        output_size=output_size,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        max_sampling_ratio=max_sampling_ratio,
    )


def shape_aware_roi_align(
    features: Sequence[jax.Array],
    boxes: jax.Array,
    levels: jax.Array,
    probabilities: jax.Array,
    *,
    strides: Sequence[int],
    output_size: int | tuple[int, int],
    sampling_ratio: int = 2,
    aligned: bool = True,
    image_size: jax.Array | None = None,
    max_sampling_ratio: int = 4,
    implementation: str | operator.Implementation | None = None,
) -> jax.Array:
    """Shape-aware RoIAlign (Ding et al. 2019, equation 4): each sample is multiplied by the probability at its place.

    F_RP(h, w) = 1/N sum_i f(a_i, b_i) p(c_i, d_i): the mean over a bin's N samples of the feature f times p, where p is
    bilinear in `probabilities` at the sample's place relative to the box (equation 5; cell centres at half numbers,
    clamped at the border). With probabilities of 1 it is RoIAlign.

    Args:
      probabilities: (B, R, Hp, Wp) floating, one map a box and aligned with it; rows are y.
      features, boxes, levels, strides, output_size, sampling_ratio, aligned, image_size, max_sampling_ratio,
        implementation: as of `multilevel_roi_align`.

    Returns:
      (B, R, h, w, C) in the features' dtype, accumulated in float32. Gradients reach `features` and `probabilities`;
      boxes get none.

    Raises:
      ValueError: as `multilevel_roi_align`, and probabilities that do not belong to the boxes.
    """
    return _pool(
        features,
        boxes,
        levels,
        arguments.array("probabilities", probabilities),
        image_size,
        implementation,
        strides=strides,
        output_size=output_size,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        max_sampling_ratio=max_sampling_ratio,
    )


def _pool(features, boxes, levels, probabilities, image_size, implementation, **static):
    features = arguments.features(features)
    boxes, levels = arguments.rois(boxes, levels, len(features[0]))
    image_size = arguments.image_size(image_size, len(boxes))
    if probabilities is not None:
        probabilities = arguments.probabilities(probabilities, boxes)
    spec = arguments.spec(features, boxes.shape[1], **static)
    implementation = choice.choose(implementation, spec)
    sampled = grid.sample_grid(boxes, levels, image_size, spec)
    weights = None
    if probabilities is not None:
        fractions = grid.sample_fractions(boxes, levels, spec)
        weights = guidance.sample_probabilities(probabilities, fractions)
    return operator.roi_align(features, sampled, weights, spec, implementation)
