"""RoIAlign and Shape-aware RoIAlign over a feature pyramid: the public functions."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.roi_align import choice, grid, guidance, operator


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
      levels: (B, R) integers, index into `features`.
      strides: image pixels per cell, one a level.
      output_size: bins, (h, w) or one number for both.
      sampling_ratio: samples per bin and axis. 0: as many as the bin spans cells, rounded up (the default of Detectron2
        and MMDetection), but at most `max_sampling_ratio`; exact where a box needs no more.
      aligned: shift by half a cell, and allow boxes smaller than one cell.
      image_size: (B, 2) height and width in pixels of the part of the canvas that holds the image; samples are clamped
        to its cells, so that what lies in the padding does not matter. None: the whole canvas.
      max_sampling_ratio: of `sampling_ratio=0`; the cost grows with its square.
      implementation: "xla", "mosaic_gpu", "triton" or "tpu" (see pallas_kernels/README.md), or an `Implementation`.
        None: the best one that covers these shapes, dtype and the default device.

    Returns:
      (B, R, h, w, C) in the features' dtype, accumulated in float32. Gradients reach `features` only; they are summed
      in float32.

    Raises:
      ValueError: shapes that do not belong together; an implementation that is unknown or does not apply, and why.
    """
    spec = _spec(
        features,
        boxes,
        levels,
        strides=strides,
        output_size=output_size,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        max_sampling_ratio=max_sampling_ratio,
    )
    implementation = _implementation(implementation, spec)
    boxes, levels = jax.lax.stop_gradient(boxes), jnp.asarray(levels)
    sampled = grid.sample_grid(boxes, levels, image_size, spec)
    return operator.roi_align(tuple(features), sampled, None, spec, implementation)


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
    spec = _spec(
        features,
        boxes,
        levels,
        strides=strides,
        output_size=output_size,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        max_sampling_ratio=max_sampling_ratio,
    )
    if probabilities.ndim != 4 or probabilities.shape[:2] != boxes.shape[:2]:
        raise ValueError(
            f"probabilities must be (B, R, Hp, Wp), a map for each box of {boxes.shape}: got {probabilities.shape}."
        )
    if not min(probabilities.shape[2:]) > 0 or not jnp.issubdtype(
        probabilities.dtype, jnp.floating
    ):
        raise ValueError(
            f"probabilities must be floating with at least one cell: got {probabilities.shape}, {probabilities.dtype}."
        )
    implementation = _implementation(implementation, spec)
    boxes, levels = jax.lax.stop_gradient(boxes), jnp.asarray(levels)
    sampled = grid.sample_grid(boxes, levels, image_size, spec)
    fractions = grid.sample_fractions(boxes, levels, spec)
    weights = guidance.sample_probabilities(probabilities, fractions)
    return operator.roi_align(tuple(features), sampled, weights, spec, implementation)


def _implementation(implementation, spec: grid.Spec) -> operator.Implementation:
    if isinstance(implementation, operator.Implementation):
        implementation.check(spec)
        return implementation
    return choice.choose(implementation, spec)


def _spec(
    features,
    boxes,
    levels,
    *,
    strides,
    output_size,
    sampling_ratio,
    aligned,
    max_sampling_ratio,
) -> grid.Spec:
    """Checks the arguments, and gathers what is static about them."""
    features, strides = tuple(features), tuple(strides)
    size = (output_size,) * 2 if np.ndim(output_size) == 0 else tuple(output_size)
    if not features or len(features) != len(strides):
        raise ValueError(f"{len(features)} feature levels but {len(strides)} strides.")
    first = features[0]
    if any(
        f.ndim != 4 or (f.shape[0], f.shape[3]) != (first.shape[0], first.shape[-1])
        for f in features
    ):
        raise ValueError(
            f"features must be (B, H, W, C) with one B and C: got {[f.shape for f in features]}."
        )
    if any(not f.size for f in features):
        raise ValueError(f"features must not be empty: got {[f.shape for f in features]}.")
    if len({f.dtype for f in features}) != 1 or not jnp.issubdtype(first.dtype, jnp.floating):
        raise ValueError(
            f"features must have one floating dtype: got {[str(f.dtype) for f in features]}."
        )
    if boxes.ndim != 3 or boxes.shape[-1] != 4 or levels.shape != boxes.shape[:2]:
        raise ValueError(
            f"boxes must be (B, R, 4) and levels (B, R): got {boxes.shape} and {levels.shape}."
        )
    if boxes.shape[0] != first.shape[0]:
        raise ValueError(f"boxes are of {boxes.shape[0]} images, features of {first.shape[0]}.")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"output_size must be at least 1 by 1, got {output_size}.")
    if sampling_ratio < 0 or max_sampling_ratio < 1:
        raise ValueError(
            "sampling_ratio must be at least 0 and max_sampling_ratio at least 1, "
            f"got {sampling_ratio} and {max_sampling_ratio}."
        )
    return grid.Spec(
        shapes=tuple(f.shape[1:3] for f in features),
        strides=strides,
        channels=first.shape[-1],
        dtype=jnp.dtype(first.dtype),
        output_size=(int(size[0]), int(size[1])),
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        max_sampling_ratio=max_sampling_ratio,
    )
