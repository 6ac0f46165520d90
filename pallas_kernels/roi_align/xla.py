"""RoIAlign in plain jax.numpy: a fused gather forward, one float32 scatter-add backward.

Runs on every platform and is the reference for the kernels. The levels of an image are laid one behind the other in a
flat (cells, C) buffer, so one gather serves RoIs of all levels.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# On CPUs the forward's intermediates should stay in cache: kernels for 32 RoIs at a time ran several times faster
# than for all at once. Accelerators fuse the whole forward into one kernel and want it undivided.
_CPU_CHUNK = 32


class Spec(NamedTuple):
    """What is static about a call."""

    shapes: tuple[tuple[int, int], ...]  # (H, W) of each level
    strides: tuple[int, ...]
    output_size: tuple[int, int]
    sampling_ratio: int
    aligned: bool


def _wide(x: jax.Array) -> jax.Array:
    """At least float32 (float64 stays)."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _axis_corners(start, length, bins: int, ratio: int, limit) -> tuple[jax.Array, jax.Array]:
    """The two neighbours (S, 2) int32 of S = bins * ratio positions along one axis of a map, and their weights (S, 2).

    The positions lie evenly from `start` over `length`, in cells of which `limit` are valid. Torchvision's border rule:
    a position outside [-1, limit] counts as zero, another one is clamped to [0, limit - 1].
    """
    offsets = (np.arange(bins * ratio) + 0.5) / ratio / bins
    position = start + jnp.asarray(offsets, start.dtype) * length
    last = (limit - 1).astype(position.dtype)
    inside = (position >= -1.0) & (position <= last + 1.0)
    position = jnp.clip(jnp.where(inside, position, 0.0), 0.0, last)  # also turns NaN into 0
    low = jnp.floor(position).astype(jnp.int32)
    high = jnp.minimum(low + 1, limit - 1)
    fraction = position - low
    weights = jnp.stack([1.0 - fraction, fraction], -1)
    # The mean over the samples of a bin: one factor an axis.
    weights *= inside[:, None].astype(position.dtype) / ratio
    return jnp.stack([low, high], -1), weights


class _Grid(NamedTuple):
    """The separable sampling grid of one RoI: flat index of each row's first cell, and the columns within a row."""

    row: jax.Array  # (h*s, 2) int32; the 2 are the low and high neighbours
    row_weight: jax.Array  # (h*s, 2) float32
    column: jax.Array  # (w*s, 2)
    column_weight: jax.Array


def _sampling(box, level, image_size, spec: Spec) -> _Grid:
    heights, widths = (np.array(v, np.int32) for v in zip(*spec.shapes, strict=True))
    bases = np.concatenate([[0], np.cumsum(heights * widths)[:-1]]).astype(np.int32)
    level = jnp.clip(level, 0, len(spec.shapes) - 1)
    base, height, width = (jnp.asarray(table)[level] for table in (bases, heights, widths))
    box = _wide(box)
    stride = jnp.asarray(spec.strides, box.dtype)[level]
    limit_y, limit_x = height, width
    if image_size is not None:  # only the cells that hold the image, not those of its padding
        cells = jnp.ceil(image_size / stride).astype(jnp.int32)
        limit_y, limit_x = jnp.clip(cells[0], 1, height), jnp.clip(cells[1], 1, width)

    box = box / stride - (0.5 if spec.aligned else 0.0)
    size = box[2:] - box[:2]
    if not spec.aligned:
        size = jnp.maximum(size, 1.0)
    (h, w), s = spec.output_size, spec.sampling_ratio
    y, y_weight = _axis_corners(box[1], size[1], h, s, limit_y)
    x, x_weight = _axis_corners(box[0], size[0], w, s, limit_x)
    return _Grid(y * width + base, y_weight, x, x_weight)


def _pool_one(flat, box, level, image_size, spec: Spec) -> jax.Array:
    """(cells, C) -> (h, w, C), at least float32."""
    (h, w), s = spec.output_size, spec.sampling_ratio
    grid = _sampling(box, level, image_size, spec)
    total = 0.0
    for dy in range(2):
        for dx in range(2):
            index = grid.row[:, None, dy] + grid.column[None, :, dx]
            weight = grid.row_weight[:, None, dy] * grid.column_weight[None, :, dx]
            values = _wide(flat[index])
            total += values * weight[..., None].astype(values.dtype)
    return total.reshape(h, s, w, s, -1).sum((1, 3))


def _forward_image(flat, boxes, levels, image_size, spec: Spec) -> jax.Array:
    def pool(box, level):
        return _pool_one(flat, box, level, image_size, spec).astype(flat.dtype)

    if not boxes.shape[0]:
        return jnp.zeros((0, *spec.output_size, flat.shape[-1]), flat.dtype)
    return jax.lax.platform_dependent(
        boxes,
        levels,
        cpu=lambda b, k: jax.lax.map(lambda a: pool(*a), (b, k), batch_size=_CPU_CHUNK),
        default=jax.vmap(pool),
    )


def _backward_image(gradient, boxes, levels, image_size, cells: int, spec: Spec) -> jax.Array:
    """(R, h, w, C) -> (cells, C), at least float32, by one scatter-add."""
    s, gradient = spec.sampling_ratio, _wide(gradient)
    grid = jax.vmap(lambda b, k: _sampling(b, k, image_size, spec))(boxes, levels)
    # One update a sample and corner, (R, h*s, 2, w*s, 2) of C numbers each; XLA fuses them into the scatter.
    index = grid.row[:, :, :, None, None] + grid.column[:, None, None]
    weight = grid.row_weight[:, :, :, None, None] * grid.column_weight[:, None, None]
    spread = jnp.repeat(jnp.repeat(gradient, s, 1), s, 2)
    updates = spread[:, :, None, :, None, :] * weight[..., None].astype(spread.dtype)
    zeros = jnp.zeros((cells, gradient.shape[-1]), gradient.dtype)
    return zeros.at[index.reshape(-1)].add(
        updates.reshape(-1, zeros.shape[-1]), mode="promise_in_bounds"
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _roi_align(features, boxes, levels, image_size, spec: Spec):
    flat = jnp.concatenate([f.reshape(f.shape[0], -1, f.shape[-1]) for f in features], axis=1)
    in_size = None if image_size is None else 0
    over_images = jax.vmap(_forward_image, in_axes=(0, 0, 0, in_size, None))
    return over_images(flat, boxes, levels, image_size, spec)


def _roi_align_fwd(features, boxes, levels, image_size, spec):
    # Zero-sized stand-ins carry the dtypes; the features themselves are not needed again.
    dtypes = tuple(jnp.zeros((0,), f.dtype) for f in features)
    return _roi_align(features, boxes, levels, image_size, spec), (
        dtypes,
        boxes,
        levels,
        image_size,
    )


def _roi_align_bwd(spec, residuals, gradient):
    dtypes, boxes, levels, image_size = residuals
    sizes = [h * w for h, w in spec.shapes]
    in_size = None if image_size is None else 0
    over_images = jax.vmap(_backward_image, in_axes=(0, 0, 0, in_size, None, None))
    flat = over_images(gradient, boxes, levels, image_size, sum(sizes), spec)
    parts = jnp.split(flat, np.cumsum(sizes)[:-1], axis=1)
    d_features = tuple(
        part.reshape(part.shape[0], h, w, -1).astype(d.dtype)
        for part, (h, w), d in zip(parts, spec.shapes, dtypes, strict=True)
    )
    return d_features, None, None, None


_roi_align.defvjp(_roi_align_fwd, _roi_align_bwd)


def multilevel_roi_align(features, boxes, levels, image_size, *, spec: Spec) -> jax.Array:
    """See `pallas_kernels.roi_align.api.multilevel_roi_align`."""
    return _roi_align(tuple(features), boxes, levels, image_size, spec)
