"""RoIAlign in plain jax.numpy: a fused gather forward, one float32 scatter-add backward.

Runs on every platform and is the reference for the kernels. The levels of an image are laid one behind the other in a
flat (cells, C) buffer, so one gather serves RoIs of all levels. On CPUs a few RoIs are taken at a time, of all images
one after the other: what lies between gather and sum then stays in cache. Accelerators fuse the whole forward into one
kernel and want it undivided. Both add in the same order.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.roi_align.grid import Grid, Spec
from pallas_kernels.roi_align.operator import Implementation

# Of a chunk of RoIs on a CPU: five RoIs of 7 x 7 bins or one of 14 x 14, about 1 MB of samples with 256 channels.
_CPU_SAMPLES = 1000


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


def _flat_neighbours(grid: Grid, first, spec: Spec):
    """Flat index of each row's first cell, columns within a row, and the weights of both: (..., n, 2) each.

    `first` (...): the index of the image's first cell.
    """
    heights, widths = (np.array(v, np.int32) for v in zip(*spec.shapes, strict=True))
    bases = np.concatenate([[0], np.cumsum(heights * widths)[:-1]]).astype(np.int32)
    base, width = (jnp.asarray(table)[grid.level] for table in (bases, widths))
    base, width = (x[..., None, None] for x in (base + first, width))
    row, row_weight = _neighbours(grid.rows)
    column, column_weight = _neighbours(grid.columns)
    return row * width + base, row_weight, column, column_weight


def _samples(
    flat: jax.Array, first, grid: Grid, weights: jax.Array | None, spec: Spec
) -> jax.Array:
    """One RoI: (cells, C) -> the weighted bilinear samples (h * samples, w * samples, C), at least float32."""
    row, row_weight, column, column_weight = _flat_neighbours(grid, first, spec)
    total = 0.0
    for dy in range(2):
        for dx in range(2):
            weight = row_weight[:, None, dy] * column_weight[None, :, dx]
            if weights is not None:
                weight *= weights.astype(weight.dtype)
            values = _wide(flat[row[:, None, dy] + column[None, :, dx]])
            total += values * weight[..., None].astype(values.dtype)
    return total


def _pool(flat: jax.Array, first, grid: Grid, weights: jax.Array | None, spec: Spec) -> jax.Array:
    """One RoI -> (h, w, C): the mean over the samples of each bin."""
    samples = _samples(flat, first, grid, weights, spec)
    (h, w), s = spec.output_size, spec.samples
    pooled = samples.reshape(h, s, w, s, -1).sum((1, 3)) * grid.mean.astype(samples.dtype)
    return pooled.astype(spec.dtype)


def _each_roi(function, features, per_roi, spec: Spec) -> jax.Array:
    """`function(flat, index of the image's first cell, *per_roi)` of every RoI: (B, R, ...)."""
    flat = jnp.concatenate([f.reshape(f.shape[0], -1, f.shape[-1]) for f in features], axis=1)
    images, cells, _ = flat.shape

    def undivided(flat, *per_roi):
        of_image = jax.vmap(function, (None, None, *(0 for _ in per_roi)))
        return jax.vmap(of_image, (0, None, *(0 for _ in per_roi)))(flat, 0, *per_roi)

    def in_chunks(flat, *per_roi):
        flat = flat.reshape(images * cells, -1)
        one = lambda roi: function(flat, *roi)  # noqa: E731
        out = jax.lax.map(one, _listed(per_roi, cells), batch_size=_chunk(spec))
        return out.reshape(images, spec.rois, *out.shape[1:])

    return jax.lax.platform_dependent(flat, *per_roi, cpu=in_chunks, default=undivided)


def _chunk(spec: Spec) -> int:
    """RoIs that a CPU takes at a time."""
    h, w = spec.output_size
    return max(1, _CPU_SAMPLES // (h * w * spec.samples**2))


def _listed(per_roi, cells: int):
    """(B, R, ...) arrays -> the index of the first cell of its image, and all of them, for each of B * R RoIs."""
    images, rois = jax.tree.leaves(per_roi)[0].shape[:2]
    first = jnp.repeat(jnp.arange(images, dtype=jnp.int32) * cells, rois)
    flat = lambda x: x.reshape(images * rois, *x.shape[2:])  # noqa: E731
    return first, *jax.tree.map(flat, per_roi)


def forward(features, grid: Grid, weights: jax.Array | None, spec: Spec) -> jax.Array:
    """(B, R, h, w, C)."""
    return _each_roi(functools.partial(_pool, spec=spec), features, (grid, weights), spec)


def d_weights(features, d_out: jax.Array, grid: Grid, spec: Spec) -> jax.Array:
    """(B, R, h * samples, w * samples): the product of each sample with the cotangent of its bin."""

    def roi(flat, first, grid, d_out):
        spread = jnp.repeat(jnp.repeat(_wide(d_out), spec.samples, 0), spec.samples, 1)
        samples = _samples(flat, first, grid, None, spec)
        return (samples * spread).sum(-1) * grid.mean.astype(spread.dtype)

    return _each_roi(roi, features, (grid, d_out), spec)


def d_features(d_out: jax.Array, grid: Grid, weights: jax.Array | None, spec: Spec):
    """The gradient of each level, summed at least in float32 by scatter-adds: one an image, or one a chunk of RoIs."""
    sizes = [h * w for h, w in spec.shapes]
    add = functools.partial(_add, spec=spec)
    # Like d_out: inside a shard_map, they vary over the mesh as what is added does.
    zeros = jnp.zeros_like(_wide(d_out), shape=(len(d_out), sum(sizes), d_out.shape[-1]))

    def undivided(zeros, *per_roi):
        return jax.vmap(add, (0, None, *(0 for _ in per_roi)))(zeros, 0, *per_roi)

    def in_chunks(zeros, *per_roi):
        flat = zeros.reshape(-1, zeros.shape[-1])
        flat = _add_in_chunks(add, flat, _listed(per_roi, sum(sizes)), _chunk(spec))
        return flat.reshape(zeros.shape)

    flat = jax.lax.platform_dependent(
        zeros, d_out, grid, weights, cpu=in_chunks, default=undivided
    ).astype(spec.dtype)
    parts = jnp.split(flat, np.cumsum(sizes)[:-1], axis=1)
    return tuple(
        part.reshape(part.shape[0], h, w, -1)
        for part, (h, w) in zip(parts, spec.shapes, strict=True)
    )


def _add_in_chunks(add, total: jax.Array, rois, size: int) -> jax.Array:
    """`add(total, *rois)`, so many RoIs at a time."""
    count = len(rois[0])
    whole = count - count % size
    chunks = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), rois)
    total, _ = jax.lax.scan(lambda total, chunk: (add(total, *chunk), None), total, chunks)
    return add(total, *jax.tree.map(lambda x: x[whole:], rois)) if count > whole else total


def _add(total: jax.Array, first, d_out, grid: Grid, weights, *, spec: Spec) -> jax.Array:
    """(cells, C), and (R, h, w, C) -> (cells, C)."""
    s, d_out = spec.samples, _wide(d_out)
    row, row_weight, column, column_weight = _flat_neighbours(grid, first, spec)
    # One update a sample and corner, (R, h*s, 2, w*s, 2) of C numbers each.
    index = row[:, :, :, None, None] + column[:, None, None]
    row_weight *= grid.mean[:, None, None].astype(row_weight.dtype)
    weight = row_weight[:, :, :, None, None] * column_weight[:, None, None]
    if weights is not None:
        weight *= weights[:, :, None, :, None].astype(weight.dtype)
    spread = jnp.repeat(jnp.repeat(d_out, s, 1), s, 2)
    updates = spread[:, :, None, :, None, :] * weight[..., None].astype(spread.dtype)
    return total.at[index.reshape(-1)].add(
        updates.reshape(-1, total.shape[-1]), mode="promise_in_bounds"
    )


IMPLEMENTATION = Implementation(forward, d_features, d_weights)
