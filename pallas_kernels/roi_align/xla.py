"""RoIAlign in plain jax.numpy: a fused gather forward, one float32 scatter-add backward.

Runs on every platform and is the reference for the kernels. The levels of an image are laid one behind the other in a
flat (cells, C) buffer, so one gather serves RoIs of all levels.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.roi_align.grid import Grid, Spec
from pallas_kernels.roi_align.operator import Implementation

# On CPUs the forward's intermediates should stay in cache: kernels for 32 RoIs at a time ran several times faster
# than for all at once. Accelerators fuse the whole forward into one kernel and want it undivided.
_CPU_CHUNK = 32


def _wide(x: jax.Array) -> jax.Array:
    """At least float32 (float64 stays)."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _neighbours(position: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(..., n) positions -> the two cells around each, (..., n, 2) int32, and their weights; zero for dropped ones."""
    inside = position >= 0.0
    position = jnp.where(inside, position, 0.0)
    low = jnp.floor(position)
    fraction = position - low
    weights = jnp.stack([1.0 - fraction, fraction], -1) * inside[..., None]
    # ceil, not low + 1: never past the last cell, and where they differ the weight is zero.
    return jnp.stack([low, jnp.ceil(position)], -1).astype(jnp.int32), weights


def _flat_neighbours(grid: Grid, spec: Spec):
    """Flat index of each row's first cell, columns within a row, and the weights of both: (..., n, 2) each."""
    heights, widths = (np.array(v, np.int32) for v in zip(*spec.shapes, strict=True))
    bases = np.concatenate([[0], np.cumsum(heights * widths)[:-1]]).astype(np.int32)
    base, width = (jnp.asarray(table)[grid.level][..., None, None] for table in (bases, widths))
    row, row_weight = _neighbours(grid.rows)
    column, column_weight = _neighbours(grid.columns)
    return row * width + base, row_weight, column, column_weight


def _samples(flat: jax.Array, grid: Grid, weights: jax.Array | None, spec: Spec) -> jax.Array:
    """One RoI: (cells, C) -> the weighted bilinear samples (h * samples, w * samples, C), at least float32."""
    row, row_weight, column, column_weight = _flat_neighbours(grid, spec)
    total = 0.0
    for dy in range(2):
        for dx in range(2):
            weight = row_weight[:, None, dy] * column_weight[None, :, dx]
            if weights is not None:
                weight *= weights.astype(weight.dtype)
            values = _wide(flat[row[:, None, dy] + column[None, :, dx]])
            total += values * weight[..., None].astype(values.dtype)
    return total


def _pool(flat: jax.Array, grid: Grid, weights: jax.Array | None, spec: Spec) -> jax.Array:
    """One RoI -> (h, w, C): the mean over the samples of each bin."""
    samples = _samples(flat, grid, weights, spec)
    (h, w), s = spec.output_size, spec.samples
    pooled = samples.reshape(h, s, w, s, -1).sum((1, 3)) * grid.mean.astype(samples.dtype)
    return pooled.astype(spec.dtype)


def _each_roi(function, *per_roi):
    """`function` of every RoI of one image."""
    return jax.lax.platform_dependent(
        *per_roi,
        cpu=lambda *a: jax.lax.map(lambda x: function(*x), a, batch_size=_CPU_CHUNK),
        default=jax.vmap(function),
    )


def _flatten(features) -> jax.Array:
    return jnp.concatenate([f.reshape(f.shape[0], -1, f.shape[-1]) for f in features], axis=1)


def forward(features, grid: Grid, weights: jax.Array | None, spec: Spec) -> jax.Array:
    """(B, R, h, w, C)."""

    def image(flat, grid, weights):
        return _each_roi(lambda g, p: _pool(flat, g, p, spec), grid, weights)

    return jax.vmap(image)(_flatten(features), grid, weights)


def d_weights(features, d_out: jax.Array, grid: Grid, spec: Spec) -> jax.Array:
    """(B, R, h * samples, w * samples): the product of each sample with the cotangent of its bin."""

    def roi(flat, grid, d_out):
        spread = jnp.repeat(jnp.repeat(_wide(d_out), spec.samples, 0), spec.samples, 1)
        return (_samples(flat, grid, None, spec) * spread).sum(-1) * grid.mean.astype(spread.dtype)

    def image(flat, grid, d_out):
        return _each_roi(lambda g, d: roi(flat, g, d), grid, d_out)

    return jax.vmap(image)(_flatten(features), grid, d_out)


def d_features(d_out: jax.Array, grid: Grid, weights: jax.Array | None, spec: Spec):
    """The gradient of each level, summed at least in float32 by one scatter-add an image."""
    sizes = [h * w for h, w in spec.shapes]
    scatter = functools.partial(_scatter_image, cells=sum(sizes), spec=spec)
    flat = jax.vmap(scatter)(d_out, grid, weights).astype(spec.dtype)
    parts = jnp.split(flat, np.cumsum(sizes)[:-1], axis=1)
    return tuple(
        part.reshape(part.shape[0], h, w, -1)
        for part, (h, w) in zip(parts, spec.shapes, strict=True)
    )


def _scatter_image(d_out, grid: Grid, weights, *, cells: int, spec: Spec) -> jax.Array:
    """(R, h, w, C) -> (cells, C)."""
    s, d_out = spec.samples, _wide(d_out)
    row, row_weight, column, column_weight = _flat_neighbours(grid, spec)
    # One update a sample and corner, (R, h*s, 2, w*s, 2) of C numbers each; XLA fuses them into the scatter.
    index = row[:, :, :, None, None] + column[:, None, None]
    row_weight *= grid.mean[:, None, None].astype(row_weight.dtype)
    weight = row_weight[:, :, :, None, None] * column_weight[:, None, None]
    if weights is not None:
        weight *= weights[:, :, None, :, None].astype(weight.dtype)
    spread = jnp.repeat(jnp.repeat(d_out, s, 1), s, 2)
    updates = spread[:, :, None, :, None, :] * weight[..., None].astype(spread.dtype)
    zeros = jnp.zeros((cells, d_out.shape[-1]), d_out.dtype)
    return zeros.at[index.reshape(-1)].add(
        updates.reshape(-1, zeros.shape[-1]), mode="promise_in_bounds"
    )


IMPLEMENTATION = Implementation(forward, d_features, d_weights)
