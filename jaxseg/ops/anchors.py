"""Anchor boxes: NumPy constants of a feature map's size, made on the host while tracing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def base(
    sizes: float | Sequence[float], aspect_ratios: Sequence[float], *, rounded: bool = False
) -> Float[np.ndarray, "A 4"]:
    """The anchors of one cell, centred on the origin: for each size all aspect ratios.

    Args:
      sizes: square roots of the anchors' areas, in pixels.
      aspect_ratios: height / width.
      rounded: whole-number corners, as torchvision makes them.

    Raises:
      ValueError: no sizes or ratios, or one that is not positive.
    """
    sizes, ratios = np.atleast_1d(sizes).astype(float), np.atleast_1d(aspect_ratios).astype(float)
    for name, values in (("sizes", sizes), ("aspect ratios", ratios)):
        if not values.size or not (values > 0).all():
            raise ValueError(f"Anchor {name} must be positive numbers; got {values.tolist()}.")
    width = sizes[:, None] / np.sqrt(ratios)
    half = 0.5 * np.stack([width, width * ratios], axis=-1).reshape(-1, 2)
    anchors = np.concatenate([-half, half], axis=-1)
    return (np.round(anchors) if rounded else anchors).astype(np.float32)


def level_anchors(
    feature_size: tuple[int, int],
    stride: int | tuple[int, int],
    sizes: float | Sequence[float],
    aspect_ratios: Sequence[float],
    *,
    offset: float = 0.0,
    rounded: bool = False,
) -> Float[np.ndarray, "HWA 4"]:
    """All anchors of one pyramid level, xyxy in input pixels: cells row by row, the anchors of a
    cell innermost.

    Args:
      feature_size: (height, width) of the feature map.
      stride: input pixels a cell, one number or (vertical, horizontal).
      sizes: square roots of the areas of this level's anchors, in pixels.
      aspect_ratios: height / width.
      offset: where in its cell an anchor's centre lies, in strides: 0 is the top left corner, 0.5
        the middle.
      rounded: see `base`.

    Raises:
      ValueError: sizes or ratios that are not positive.
    """
    cell = base(sizes, aspect_ratios, rounded=rounded)
    steps = np.broadcast_to(stride, 2)
    y, x = ((np.arange(n) + offset) * s for n, s in zip(feature_size, steps, strict=True))
    y, x = np.meshgrid(y, x, indexing="ij")
    centres = np.stack([x, y, x, y], axis=-1).astype(np.float32)
    return (centres[:, :, None] + cell).reshape(-1, 4)


def centres(anchors: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "M 2"]:
    """The middles (y, x) of anchors, to 1/64 pixel: an anchor counts for an image if its middle
    lies inside.
    """
    middle = 0.5 * (anchors[:, 1::-1] + anchors[:, 3:1:-1])
    # Float32 corners may give 7.9999995 for 8, which would count a cell of the padding for the
    # image.
    return (np.round(middle * 64) / 64).astype(np.float32)
