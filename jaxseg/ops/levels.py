"""Which pyramid level a region is pooled from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from jaxseg.ops import boxes as box_ops
from jaxseg.structures import Pyramid


def fpn_level(
    boxes: Shaped[Array, "*B 4"],
    *,
    num_levels: int = 4,
    canonical_size: float = 224.0,
    canonical_level: int = 2,
    tolerance: float = 0.0,
) -> Int[Array, "*B"]:
    """FPN's rule: `canonical_level + floor(log2(sqrt(area) / canonical_size))`, clamped to the
    levels there are.

    Args:
      boxes: xyxy in input pixels; without area they go to level 0.
      num_levels: number of levels; 0 is the finest.
      canonical_size: side in pixels of a square that belongs to `canonical_level`.
      canonical_level: index of that level.
      tolerance: share of its bound by which a side (the square root of the area) may miss the next level and still
        belong to it. Other libraries add a small number before they round down; it decides for boxes at a bound.
    """
    area = jax.lax.stop_gradient(box_ops.area(boxes))
    # Counting the bounds that are reached is exact at the bounds, where a float32 log2 is not.
    least = canonical_size * (1.0 - tolerance)
    bounds = [(least * 2.0 ** (i - canonical_level)) ** 2 for i in range(1, num_levels)]
    return sum((area >= bound).astype(jnp.int32) for bound in bounds) + jnp.zeros_like(
        area, jnp.int32
    )


def single(pyramid: Pyramid, index: int) -> Pyramid:
    """A pyramid of one of the levels (0: the finest), from which every region is pooled."""
    return pyramid.replace(levels=(pyramid.levels[index],), strides=(pyramid.strides[index],))
