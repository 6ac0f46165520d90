"""RoIAlign over a feature pyramid: the one public function, and the choice of implementation."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from pallas_kernels.roi_align import xla

IMPLEMENTATIONS = {"xla": xla.multilevel_roi_align}


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
    implementation: str | None = None,
) -> jax.Array:
    """Pools each box from its own pyramid level (He et al. 2017, section 3; half-pixel form when `aligned`).

    Each of the h x w bins is the mean of `sampling_ratio`^2 bilinear samples. A sample more than one cell off the map
    counts as zero, one closer is clamped to the border (as torchvision and Detectron2 do).

    Args:
      features: one (B, H_l, W_l, C) array a level, all of one dtype.
      boxes: (B, R, 4) xyxy in image pixels, continuous coordinates. Empty, NaN and outside boxes give finite values.
      levels: (B, R) int32, index into `features`.
      strides: image pixels per cell, one a level.
      output_size: bins, (h, w) or one number for both.
      sampling_ratio: samples per bin and axis, at least 1.
      aligned: shift by half a cell, and allow boxes smaller than one cell.
      image_size: (B, 2) height and width in pixels of the part of the canvas that holds the image; samples are clamped
        to its cells, so that what lies in the padding does not matter. None: the whole canvas.
      implementation: a key of IMPLEMENTATIONS; None chooses.

    Returns:
      (B, R, h, w, C) in the features' dtype, accumulated in float32. Gradients reach `features` only; they are summed
      in float32.

    Raises:
      ValueError: shapes that do not belong together, or an unknown implementation.
    """
    name = implementation or "xla"
    if name not in IMPLEMENTATIONS:
        allowed = ", ".join(IMPLEMENTATIONS)
        raise ValueError(f"roi_align implementation {name!r}: allowed are {allowed}, or None.")
    features, strides = tuple(features), tuple(strides)
    _check(features, boxes, levels, strides, sampling_ratio)
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    shapes = tuple(f.shape[1:3] for f in features)
    spec = xla.Spec(shapes, strides, size, sampling_ratio, aligned)
    boxes = jax.lax.stop_gradient(boxes)
    return IMPLEMENTATIONS[name](features, boxes, levels.astype(jnp.int32), image_size, spec=spec)


def _check(features, boxes, levels, strides, sampling_ratio) -> None:
    if not features or len(features) != len(strides):
        raise ValueError(f"{len(features)} feature levels but {len(strides)} strides.")
    if any(f.ndim != 4 or f.shape[-1] != features[0].shape[-1] for f in features):
        raise ValueError(
            f"features must be (B, H, W, C) with one C: got {[f.shape for f in features]}."
        )
    if len({f.dtype for f in features}) != 1:
        raise ValueError(f"features must have one dtype: got {[str(f.dtype) for f in features]}.")
    if boxes.ndim != 3 or boxes.shape[-1] != 4 or levels.shape != boxes.shape[:2]:
        raise ValueError(
            f"boxes must be (B, R, 4) and levels (B, R): got {boxes.shape} and {levels.shape}."
        )
    if boxes.shape[0] != features[0].shape[0]:
        raise ValueError(
            f"boxes are of {boxes.shape[0]} images, features of {features[0].shape[0]}."
        )
    if sampling_ratio < 1:
        raise ValueError(f"sampling_ratio must be at least 1, got {sampling_ratio}.")
