"""The kernel bodies of both GPU backends, written so that one text serves Triton, Mosaic GPU and interpret mode.

What makes that possible: every load and store is a vector of channels at scalar indices, since Mosaic GPU takes no
arrays as indices and Triton no shapes but powers of two. All threads of a program compute the same scalars. A program
finds its place from one running number, so any backend's grid will do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.roi_align.grid import Grid, Spec

TILE = 4  # cells a side of the tile that a program of the backward owns: TILE^2 vectors of channels in registers
BLOCK = 4  # tiles a side of the blocks that share a list of RoIs


def channel_block(channels: int) -> int:
    """Channels a program: the largest power of two that divides them, at most 256."""
    return min(channels & -channels, 256)


def _unravel(program, *sizes: int):
    """The running number of a program -> an index for each of `sizes`, the last fastest."""
    place = []
    for size in reversed(sizes[1:]):
        place.append(program % size)
        program = program // size
    return (program, *reversed(place))


def _channels(spec: Spec, index):
    size = channel_block(spec.channels)
    return pl.ds(index * size, size)


def _neighbours(position):
    """A scalar position -> its two cells, and their weights; both zero if it is dropped."""
    inside = jnp.where(position >= 0.0, jnp.float32(1.0), jnp.float32(0.0))
    position = jnp.maximum(position, 0.0)
    low = position.astype(jnp.int32)
    fraction = position - low.astype(jnp.float32)
    high = low + jnp.where(fraction > 0.0, jnp.int32(1), jnp.int32(0))
    return (low, high), (inside * (1.0 - fraction), inside * fraction)


def _bilinear(feature, b, rows, columns, channels):
    """One sample of a map: (channel_block,) float32."""
    total = None
    for y, wy in zip(*rows, strict=True):
        for x, wx in zip(*columns, strict=True):
            term = feature[b, y, x, channels].astype(jnp.float32) * (wy * wx)
            total = term if total is None else total + term
    return total


def _on_its_level(features: Sequence, level, body: Callable) -> None:
    """`body` of the one feature map that `level` names: the pyramid is never copied into one array."""
    for index, feature in enumerate(features):
        pl.when(level == index)(lambda feature=feature: body(feature))


def forward_programs(batch: int, rois: int, spec: Spec) -> int:
    return batch * rois * spec.output_size[0] * (spec.channels // channel_block(spec.channels))


def forward(program, features, grid: Grid, weights, out, *, spec: Spec) -> None:
    """One row of bins of one RoI: out[b, r, i] (w, channels)."""
    (bins_y, bins_x), s = spec.output_size, spec.samples
    blocks = spec.channels // channel_block(spec.channels)
    b, r, i, c = _unravel(program, *grid.level.shape, bins_y, blocks)
    channels = _channels(spec, c)
    mean = grid.mean[b, r]
    rows = [_neighbours(grid.rows[b, r, i * s + k]) for k in range(s)]

    def pool(feature):
        def one_bin(j, _):
            columns = [_neighbours(grid.columns[b, r, j * s + m]) for m in range(s)]
            total = None
            for k in range(s):
                for m in range(s):
                    sample = _bilinear(feature, b, rows[k], columns[m], channels)
                    if weights is not None:
                        sample *= weights[b, r, i * s + k, j * s + m]
                    total = sample if total is None else total + sample
            out[b, r, i, j, channels] = (total * mean).astype(out.dtype)

        jax.lax.fori_loop(0, bins_x, one_bin, None)

    _on_its_level(features, grid.level[b, r], pool)


def d_weights_programs(batch: int, rois: int, spec: Spec) -> int:
    return batch * rois * spec.output_size[0]


def d_weights(program, features, d_out, grid: Grid, out, *, spec: Spec) -> None:
    """One row of bins of one RoI: the samples' products with the cotangent, out[b, r, i * s:(i + 1) * s]."""
    (bins_y, bins_x), s = spec.output_size, spec.samples
    b, r, i = _unravel(program, *grid.level.shape, bins_y)
    mean = grid.mean[b, r]
    rows = [_neighbours(grid.rows[b, r, i * s + k]) for k in range(s)]
    blocks = spec.channels // channel_block(spec.channels)

    def multiply(feature):
        def one_bin(j, _):
            columns = [_neighbours(grid.columns[b, r, j * s + m]) for m in range(s)]
            for k in range(s):
                for m in range(s):
                    total = jnp.float32(0.0)
                    for c in range(blocks):
                        channels = _channels(spec, c)
                        sample = _bilinear(feature, b, rows[k], columns[m], channels)
                        cotangent = d_out[b, r, i, j, channels].astype(jnp.float32)
                        total += jnp.sum(sample * cotangent)
                    out[b, r, i * s + k, j * s + m] = total * mean

        jax.lax.fori_loop(0, bins_x, one_bin, None)

    _on_its_level(features, grid.level[b, r], multiply)


def tile_counts(shape: tuple[int, int]) -> tuple[int, int]:
    return tuple(pl.cdiv(n, TILE) for n in shape)


def d_features_programs(batch: int, shape: tuple[int, int], spec: Spec) -> int:
    tiles_y, tiles_x = tile_counts(shape)
    return batch * tiles_y * tiles_x * (spec.channels // channel_block(spec.channels))


def d_features(
    program,
    d_out,
    grid: Grid,
    weights,
    ranges: Sequence,
    lists: Sequence,
    out,
    *,
    spec: Spec,
    shape: tuple[int, int],
    zeros: Callable = lambda n: jnp.zeros((n,), jnp.float32),
) -> None:
    """One tile of one level's gradient, gathered from the RoIs on its block's list: out[b, y:y+TILE, x:x+TILE].

    For each row of samples near the tile, its bins' cotangents are first spread over the tile's columns, then over its
    rows. `ranges` and `lists` are those of `tiles.py`, `zeros` the way to begin a sum.
    """
    s = spec.samples
    blocks = spec.channels // channel_block(spec.channels)
    row_ranges, column_ranges = ranges
    ids, counts = lists
    b, tile_y, tile_x, c = _unravel(program, counts.shape[0], *tile_counts(shape), blocks)
    channels = _channels(spec, c)
    block = (b, tile_y // BLOCK, tile_x // BLOCK)
    span = range(TILE)

    def hats(position, first):
        """The weights of one sample in the tile's cells along an axis."""
        return [jnp.maximum(0.0, 1.0 - jnp.abs(position - (first + n))) for n in span]

    y, x = tile_y * TILE, tile_x * TILE
    first_y, first_x = y.astype(jnp.float32), x.astype(jnp.float32)

    def add_roi(n, tile):
        r = ids[(*block, n)]
        mean = grid.mean[b, r]

        def add_bin_row(i, tile):
            for k in range(s):
                row = i * s + k

                def add_bin(j, across, row=row):
                    d = d_out[b, r, i, j, channels].astype(jnp.float32)
                    share = [0.0 for _ in span]
                    for m in range(s):
                        column = j * s + m
                        near = hats(grid.columns[b, r, column], first_x)
                        if weights is not None:
                            near = [w * weights[b, r, row, column] for w in near]
                        share = [a + w for a, w in zip(share, near, strict=True)]
                    return tuple(a + d * w for a, w in zip(across, share, strict=True))

                start = tuple(zeros(channel_block(spec.channels)) for _ in span)
                bounds = column_ranges[b, r, tile_x, 0], column_ranges[b, r, tile_x, 1]
                across = jax.lax.fori_loop(*bounds, add_bin, start)
                down = [w * mean for w in hats(grid.rows[b, r, row], first_y)]
                tile = tuple(tile[v * TILE + h] + across[h] * down[v] for v in span for h in span)
            return tile

        bounds = row_ranges[b, r, tile_y, 0], row_ranges[b, r, tile_y, 1]
        return jax.lax.fori_loop(*bounds, add_bin_row, tile)

    start = tuple(zeros(channel_block(spec.channels)) for _ in range(TILE**2))
    tile = jax.lax.fori_loop(0, counts[block], add_roi, start)
    height, width = shape
    for v in span:
        for h in span:

            @pl.when((y + v < height) & (x + h < width))
            def _store(v=v, h=h):
                out[b, y + v, x + h, channels] = tile[v * TILE + h].astype(out.dtype)
