"""Boxes: xyxy, in pixels of the network input, in continuous coordinates (width is x2 - x1, without
"+ 1").

All functions compute in float32 (float64 where the input is that) whatever the compute dtype of the
network is. A box whose second corner lies before its first has no area.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxseg import precision

# Detectron2's bound of what a delta may do to a side: anchors of 16 px can become 1000 px.
MAX_LOG_SCALE = math.log(1000.0 / 16.0)
# Sides are held above this before a division or a logarithm. Far below any real box, so it only
# makes degenerate ones finite.
_MIN_SIDE = 1e-6


def area(boxes: Shaped[Array, "... 4"]) -> Float[Array, "..."]:
    """Areas in square pixels, 0 for boxes without extent."""
    boxes = precision.at_least_float32(boxes)
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return sides[..., 0] * sides[..., 1]


def intersection(
    a: Shaped[Array, "... N 4"], b: Shaped[Array, "... M 4"]
) -> Float[Array, "... N M"]:
    """The areas that every box of `a` shares with every box of `b`, in square pixels."""
    a, b = precision.at_least_float32(a), precision.at_least_float32(b)
    # One coordinate at a time: a trailing axis of two would leave most vector lanes idle.
    ax1, ay1, ax2, ay2 = (a[..., :, None, i] for i in range(4))
    bx1, by1, bx2, by2 = (b[..., None, :, i] for i in range(4))
    width = jnp.maximum(jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1), 0.0)
    height = jnp.maximum(jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1), 0.0)
    return width * height


def iou(a: Shaped[Array, "... N 4"], b: Shaped[Array, "... M 4"]) -> Float[Array, "... N M"]:
    """Intersection over union of every pair; 0 where neither box has an area."""
    shared = intersection(a, b)
    return _ratio(shared, area(a)[..., :, None] + area(b)[..., None, :] - shared)


def paired_iou(a: Shaped[Array, "*B 4"], b: Shaped[Array, "*B 4"]) -> Float[Array, "*B"]:
    """Intersection over union of each box of `a` with that of `b` at its place."""
    return iou(a[..., None, :], b[..., None, :])[..., 0, 0]


def iof(a: Shaped[Array, "... N 4"], b: Shaped[Array, "... M 4"]) -> Float[Array, "... N M"]:
    """The part of every box of `a` that lies on each box of `b`; 0 for a box without area."""
    shared = intersection(a, b)
    return _ratio(shared, jnp.broadcast_to(area(a)[..., :, None], shared.shape))


def _ratio(part: Float[Array, "..."], whole: Float[Array, "..."]) -> Float[Array, "..."]:
    # The inner `where` keeps 0/0 out of the gradient too.
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1.0), 0.0)


def encode(
    boxes: Shaped[Array, "*#B 4"],
    anchors: Shaped[Array, "*#B 4"],
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "*B 4"]:
    """The deltas (dx, dy, dw, dh) that `decode` turns `anchors` into `boxes` with.

    Args:
      boxes: the goal.
      anchors: anchors or proposals to start from.
      weights: factors of the four deltas, e.g. (10, 10, 5, 5) in the box head.
    """
    bx, by, bw, bh = _centre_and_sides(boxes)
    ax, ay, aw, ah = _centre_and_sides(anchors)
    aw, ah, bw, bh = (jnp.maximum(side, _MIN_SIDE) for side in (aw, ah, bw, bh))
    deltas = ((bx - ax) / aw, (by - ay) / ah, jnp.log(bw / aw), jnp.log(bh / ah))
    return jnp.stack([d * w for d, w in zip(deltas, weights, strict=True)], axis=-1)


def decode(
    deltas: Shaped[Array, "*#B 4"],
    anchors: Shaped[Array, "*#B 4"],
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    *,
    clip: float = MAX_LOG_SCALE,
    clip_lower: bool = False,
) -> Float[Array, "*B 4"]:
    """Applies deltas (dx, dy, dw, dh) to anchors; the leading axes broadcast.

    Args:
      deltas: a network's output, scaled by `weights` as in `encode`.
      anchors: the boxes that the deltas are relative to.
      weights: factors of the four deltas.
      clip: upper bound of the logarithmic change of a side.
      clip_lower: bound it below by -clip too, as MMDetection does.
    """
    deltas = precision.at_least_float32(deltas)
    dx, dy, dw, dh = (deltas[..., i] / w for i, w in zip(range(4), weights, strict=True))
    lower = -clip if clip_lower else None
    ax, ay, aw, ah = _centre_and_sides(anchors)
    x, y = ax + dx * aw, ay + dy * ah
    w, h = aw * jnp.exp(jnp.clip(dw, lower, clip)), ah * jnp.exp(jnp.clip(dh, lower, clip))
    return jnp.stack([x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h], axis=-1)


def _centre_and_sides(boxes: Shaped[Array, "... 4"]) -> tuple[Float[Array, "..."], ...]:
    x1, y1, x2, y2 = (precision.at_least_float32(boxes)[..., i] for i in range(4))
    return 0.5 * (x1 + x2), 0.5 * (y1 + y2), x2 - x1, y2 - y1


def clip(boxes: Shaped[Array, "*B 4"], image_size: Shaped[Array, "*I 2"]) -> Float[Array, "*B 4"]:
    """Moves corners into the image: x to [0, width], y to [0, height].

    Args:
      boxes: with any leading axes.
      image_size: (height, width), one for all boxes (2,) or with the first of the boxes' leading
        axes, e.g. (B, 2).
    """
    boxes, size = precision.at_least_float32(boxes), precision.at_least_float32(image_size)
    size = size.reshape(size.shape[:-1] + (1,) * (boxes.ndim - size.ndim) + (2,))
    limit = jnp.stack([size[..., 1], size[..., 0]] * 2, axis=-1)
    return jnp.clip(boxes, 0.0, limit)


def hflip(boxes: Shaped[Array, "... 4"], width: float | Shaped[Array, ""]) -> Float[Array, "... 4"]:
    """Mirrors boxes about the vertical axis of an image of that width: x becomes width - x."""
    x1, y1, x2, y2 = (precision.at_least_float32(boxes)[..., i] for i in range(4))
    return jnp.stack([width - x2, y1, width - x1, y2], axis=-1)
