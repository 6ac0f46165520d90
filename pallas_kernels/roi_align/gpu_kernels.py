"""The kernel bodies of both GPU backends, written so that one text serves Triton, Mosaic GPU and interpret mode.

What makes that possible: every load and store is a vector of channels at scalar indices, since Mosaic GPU takes no
arrays as indices and Triton no shapes but powers of two. All threads of a program compute the same scalars. A program
finds its place from one running number, so any backend's grid will do.
"""

from __future__ import annotations

import functools
import operator
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


def _bilinear(feature, b, rows, columns, channels, total=None):
    """Weighted sum of cells, (channel_block,) float32: along each row first, then over the rows, onto `total`.

    `rows` and `columns` are lists of (cells, their weights), as of `_neighbours`.
    """
    for y, wy in _pairs(rows):
        across = None
        for x, wx in _pairs(columns):
            term = feature[b, y, x, channels].astype(jnp.float32) * wx
            across = term if across is None else across + term
        total = across * wy if total is None else total + across * wy
    return total


def _pairs(neighbours):
    return [pair for cells, weights in neighbours for pair in zip(cells, weights, strict=True)]


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

    def weighted(columns, row, j):
        by_column = [weights[b, r, row, j * s + m] for m in range(s)]
        return [
            (x, (low * w, high * w)) for (x, (low, high)), w in zip(columns, by_column, strict=True)
        ]

    def pool(feature):
        def one_bin(j, _):
            columns = [_neighbours(grid.columns[b, r, j * s + m]) for m in range(s)]
            if weights is None:  # the samples of a bin are one separable sum
                total = _bilinear(feature, b, rows, columns, channels)
            else:  # in the same order, so that weights of one change no bit
                total = None
                for k in range(s):
                    by_row = weighted(columns, i * s + k, j)
                    total = _bilinear(feature, b, [rows[k]], by_row, channels, total)
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
                        sample = _bilinear(feature, b, [rows[k]], [columns[m]], channels)
                        cotangent = d_out[b, r, i, j, channels].astype(jnp.float32)
                        total += jnp.sum(sample * cotangent)
                    out[b, r, i * s + k, j * s + m] = total * mean

        jax.lax.fori_loop(0, bins_x, one_bin, None)

    _on_its_level(features, grid.level[b, r], multiply)


def tile_counts(shape: tuple[int, int]) -> tuple[int, int]:
    return tuple(pl.cdiv(n, TILE) for n in shape)


def _sum_lists(lists):
    """Element by element."""
    return [functools.reduce(operator.add, terms) for terms in zip(*lists, strict=True)]


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

    For each row of bins near the tile, the cotangents are first spread over the tile's columns, then over its rows;
    with weights, which differ from one row of samples to the next, for each of the bin's rows of samples apart.
    `ranges` and `lists` are those of `tiles.py`, `zeros` the way to begin a sum.
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
        """The bilinear weights of one sample in the tile's cells along an axis."""
        return [jnp.maximum(0.0, 1.0 - jnp.abs(position - (first + n))) for n in span]

    y, x = tile_y * TILE, tile_x * TILE
    first_y, first_x = y.astype(jnp.float32), x.astype(jnp.float32)

    def add_roi(n, tile):
        r = ids[(*block, n)]
        mean = grid.mean[b, r]
        columns = column_ranges[b, r, tile_x, 0], column_ranges[b, r, tile_x, 1]

        def add_bin_row(i, tile):
            rows = [i * s + k for k in range(s)]
            down = [hats(grid.rows[b, r, row], first_y) for row in rows]
            if weights is None:
                down = [_sum_lists(down)]

            def add_bin(j, across):
                d = d_out[b, r, i, j, channels].astype(jnp.float32) * mean
                near = [hats(grid.columns[b, r, j * s + m], first_x) for m in range(s)]
                if weights is None:
                    shares = _sum_lists(near)
                else:
                    shares = []
                    for row in rows:
                        by_column = [weights[b, r, row, j * s + m] for m in range(s)]
                        shares += _sum_lists(
                            [[w * p for w in hat] for hat, p in zip(near, by_column, strict=True)]
                        )
                return tuple(a + d * w for a, w in zip(across, shares, strict=True))

            start = tuple(zeros(channel_block(spec.channels)) for _ in down for _ in span)
            across = jax.lax.fori_loop(*columns, add_bin, start)
            for g, by_row in enumerate(down):
                tile = tuple(
                    tile[v * TILE + h] + across[g * TILE + h] * by_row[v]
                    for v in span
                    for h in span
                )
            return tile

        bins = row_ranges[b, r, tile_y, 0], row_ranges[b, r, tile_y, 1]
        return jax.lax.fori_loop(*bins, add_bin_row, tile)

    start = tuple(zeros(channel_block(spec.channels)) for _ in range(TILE**2))
    tile = jax.lax.fori_loop(0, counts[block], add_roi, start)
    height, width = shape
    for v in span:
        for h in span:

            @pl.when((y + v < height) & (x + h < width))
            def _store(v=v, h=h):
                out[b, y + v, x + h, channels] = tile[v * TILE + h].astype(out.dtype)
