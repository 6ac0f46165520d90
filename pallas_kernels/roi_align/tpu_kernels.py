"""The TPU kernel bodies: RoIAlign as a product of a small interpolation matrix with tiles of the feature map.

A TPU cannot gather single cells from HBM, but it copies rectangles and multiplies matrices. A RoI's bins are
A @ F for the cells F (cells, C) of each tile of its window and A (bins, cells), which is made on the fly from the
position tables. Both gradients use the same A, or its parts: A^T @ d_out, and sums of F @ d_out^T.

Cells outside a RoI's window never reach it, but inside products with zero are not skipped: a cell that is not finite
reaches every bin of the RoI, and such a cotangent every cell of the tiles that its RoI touches.

A matrix is kept as A^T, with the bins in lanes, so that a position table is a handful of rows of lanes. The bins of
a RoI are numbered i * pitch + j, with the pitch a multiple of eight: only then is (h, pitch, C) -> (bins, C) free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.roi_align.grid import Spec

ALIGN = 8  # a copy from HBM begins at a multiple of this along W
TILE = (8, 16)  # rows and columns of cells that one matrix product takes
BLOCK = (4, 2)  # tiles that a program of the backward owns


def pitch(spec: Spec) -> int:
    """Numbers of bins from one row of bins to the next."""
    return pl.cdiv(spec.output_size[1], 8) * 8


def channel_block(channels: int) -> int:
    """Channels a program: the largest divisor that is a multiple of 128 and at most 512."""
    return max(n for n in range(128, min(channels, 512) + 1, 128) if channels % n == 0)


def _channels(spec: Spec, index):
    size = channel_block(spec.channels)
    return pl.ds(pl.multiple_of(index * size, size), size)


class Window(NamedTuple):
    """The cells of its level that a RoI samples, from the first to the last; in no cell, the last is before the first.

    All are int32 scalars.
    """

    level: jax.Array
    top: jax.Array
    bottom: jax.Array
    left: jax.Array
    right: jax.Array
    height: jax.Array  # of the level's map
    width: jax.Array

    @classmethod
    def of(cls, windows, roi) -> Window:
        """From a (1, 7, R) ref: the fields of every RoI."""
        return cls(*(windows[0, n, roi] for n in range(len(cls._fields))))

    @property
    def empty(self):
        return (self.bottom < self.top) | (self.right < self.left)

    def tiles(self):
        """Rows and columns of tiles, at least one of each: the pipeline of copies must not run dry."""
        rows = (self.bottom - self.top + TILE[0]) // TILE[0]
        columns = (self.right - self._aligned_left() + TILE[1]) // TILE[1]
        return jnp.maximum(rows, 1), jnp.maximum(columns, 1)

    def tile(self, index):
        """The first row and column that it adds to the tiles before, and those of its copy, which ends on the map."""
        _, columns = self.tiles()
        own = (
            self.top + index // columns * TILE[0],
            self._aligned_left() + index % columns * TILE[1],
        )
        return own, (
            jnp.minimum(own[0], self.height - TILE[0]),
            jnp.minimum(own[1], self.width - TILE[1]),
        )

    def select(self, cells, own, first):
        """A tile (rows, columns, C), its other cells zero: those of the tiles before, and those outside the window.

        The latter would be multiplied by zero anyway, but that is no help if they are not finite.
        """
        row, column = (
            first[axis] + jax.lax.broadcasted_iota(jnp.int32, cells.shape, axis) for axis in (0, 1)
        )
        left = jnp.maximum(own[1], self.left)
        mine = (row >= own[0]) & (row <= self.bottom) & (column >= left) & (column <= self.right)
        return jnp.where(mine, cells, jnp.zeros_like(cells))

    def _aligned_left(self):
        return self.left // ALIGN * ALIGN


def _hats(positions, first, cells: int) -> Sequence[jax.Array]:
    """(samples, bins) positions along an axis -> each sample's weights in the cells from `first`: (cells, bins)."""
    samples, bins = positions.shape
    cell = first + jax.lax.broadcasted_iota(jnp.int32, (cells, bins), 0)
    at = cell.astype(jnp.float32)
    return [jnp.maximum(0.0, 1.0 - jnp.abs(positions[k : k + 1] - at)) for k in range(samples)]


def _interpolation(table, first, spec: Spec) -> jax.Array:
    """A^T (cells of a tile, bins) of the tile that begins at the row and column `first`.

    `table` (rows, bins): the y of each sample of a bin, the x of each, and one factor for all or one for each pair.
    """
    s = spec.samples
    rows = _hats(table[:s], first[0], TILE[0])
    columns = _hats(table[s : 2 * s], first[1], TILE[1])
    factors = table[2 * s :]
    if factors.shape[0] == 1:
        total = sum(rows)[:, None] * (sum(columns) * factors)[None]
    else:
        total = 0.0
        for k, row in enumerate(rows):
            of_row = [factors[k * s + m : k * s + m + 1] for m in range(s)]
            across = sum(c * factor for c, factor in zip(columns, of_row, strict=True))
            total += row[:, None] * across[None]
    return total.reshape(TILE[0] * TILE[1], -1)


def _dot(a, b, contract=((1,), (0,))) -> jax.Array:
    """Two matrices of one dtype in the accuracy of float32: exact products, float32 sums."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(
        a, b, (contract, ((), ())), precision=exact, preferred_element_type=jnp.float32
    )


def _interpolate(a, b) -> jax.Array:
    """a (n, k) float32 times b (k, m) float32 or bfloat16: `a` stays more exact than bfloat16, as a sum of two."""
    if b.dtype == jnp.float32:
        return _dot(a, b)
    high = a.astype(b.dtype)
    low = (a - high.astype(jnp.float32)).astype(b.dtype)
    return _dot(high, b) + _dot(low, b)


def _pack(d_out, packed, spec: Spec) -> jax.Array:
    """(h, w, C) -> (bins, C) by way of the float32 buffer `packed`, whose other rows are zero."""
    w, step = spec.output_size[1], pitch(spec)
    for i in range(spec.output_size[0]):
        packed[i * step : i * step + w] = d_out[i].astype(jnp.float32)
    return packed[...].astype(spec.dtype)


def _each_tile(features: Sequence, windows, buffers, body: Callable, *, spec: Spec) -> None:
    """body(cells, first) for each tile of this program's RoI, the next tile being copied meanwhile.

    The program's last tile hides the copy of the next program's first, as long as that has the same image.
    """
    tile, semaphores, slot = buffers
    b, r, c = (pl.program_id(axis) for axis in range(3))
    rois, blocks = pl.num_programs(1), pl.num_programs(2)
    window = Window.of(windows, r)
    rows, columns = window.tiles()
    count, zero = rows * columns, jnp.int32(0)

    def copy(feature, row, column, channel, at):
        column = pl.multiple_of(column, ALIGN)
        cells = feature.at[b, pl.ds(row, TILE[0]), pl.ds(column, TILE[1]), _channels(spec, channel)]
        return pltpu.make_async_copy(cells, tile.at[at], semaphores.at[at])

    def start(roi, channel, index, at):
        window = Window.of(windows, roi)
        _, place = window.tile(index)
        for level, feature in enumerate(features):

            @pl.when(window.level == level)
            def _(feature=feature):
                copy(feature, *place, channel, at).start()

    @pl.when((r == 0) & (c == 0))
    def _():
        slot[0] = zero
        start(r, c, zero, zero)

    def step(index, at):
        last = index + 1 == count
        wrap = last & (c + 1 == blocks)
        next_roi = jnp.where(wrap, r + 1, r)
        next_channel = jnp.where(last, jnp.where(wrap, zero, c + 1), c)

        @pl.when(next_roi < rois)
        def _():
            start(next_roi, next_channel, jnp.where(last, zero, index + 1), 1 - at)

        copy(features[0], zero, zero, zero, at).wait()  # any copy of this size

        @pl.when(~window.empty)
        def _():
            own, first = window.tile(index)
            cells = window.select(tile[at], own, first)
            body(cells.reshape(TILE[0] * TILE[1], -1), first)

        return 1 - at

    slot[0] = jax.lax.fori_loop(zero, count, step, slot[0])


def forward(windows, table, *refs, spec: Spec) -> None:
    """One RoI and block of channels: out (1, 1, h, w, channels)."""
    *features, out, total, tile, semaphores, slot = refs
    total[...] = jnp.zeros_like(total)

    def add(cells, first):
        total[...] += _interpolate(_interpolation(table[0, 0], first, spec).T, cells)

    _each_tile(features, windows, (tile, semaphores, slot), add, spec=spec)
    h, w = spec.output_size
    bins = total[...].reshape(h, pitch(spec), -1).astype(spec.dtype)
    out[0, 0] = bins[:, :w]


def d_weights(windows, table, d_out, *refs, spec: Spec) -> None:
    """One RoI, summed over the programs of its blocks of channels: out (1, 1, samples^2, bins)."""
    *features, out, packed, tile, semaphores, slot = refs
    s = spec.samples

    @pl.when(pl.program_id(2) == 0)
    def _():
        out[...] = jnp.zeros_like(out)

    packed[...] = jnp.zeros_like(packed)
    d = _pack(d_out.at[0, 0], packed, spec)

    def add(cells, first):
        products = _dot(cells, d, ((1,), (1,))).reshape(*TILE, -1)  # of each cell with each bin
        rows = _hats(table[0, 0, :s], first[0], TILE[0])
        columns = _hats(table[0, 0, s : 2 * s], first[1], TILE[1])
        mean = table[0, 0, 2 * s : 2 * s + 1]
        for k, row in enumerate(rows):
            of_row = (products * row[:, None]).sum(0)
            for m, column in enumerate(columns):
                n = pl.ds(k * s + m, 1)
                out[0, 0, n] += (of_row * column).sum(0, keepdims=True) * mean

    _each_tile(features, windows, (tile, semaphores, slot), add, spec=spec)


def d_features(windows, listed, table, d_out, out, total, packed, *buffers, spec: Spec) -> None:
    """One block of one level's gradient, from the RoIs on its list, always in the same order.

    `listed` (1, 1, 1, 1, 1 + R): how many, and which. out (1, rows, columns, channels).
    """
    b, block_y, block_x, c = (pl.program_id(axis) for axis in range(4))
    origin = [
        n * tiles * cells for n, tiles, cells in zip((block_y, block_x), BLOCK, TILE, strict=True)
    ]
    count, zero = listed[0, 0, 0, 0, 0], jnp.int32(0)
    tables, cotangents, of_table, of_cotangent = buffers

    def copies(n, at):
        r = listed[0, 0, 0, 0, n + 1]
        return (
            pltpu.make_async_copy(table.at[b, r], tables.at[at], of_table.at[at]),
            pltpu.make_async_copy(
                d_out.at[b, r, :, :, _channels(spec, c)], cotangents.at[at], of_cotangent.at[at]
            ),
        )

    def start(n, at):
        for copy in copies(n, at):
            copy.start()

    def near(first, last, axis):
        """The tiles of the block, along an axis, that a window touches."""
        cells = TILE[axis]
        return (
            jnp.maximum(first - origin[axis], 0) // cells,
            jnp.minimum(last - origin[axis], BLOCK[axis] * cells - 1) // cells + 1,
        )

    def add_roi(n, at):
        @pl.when(n + 1 < count)
        def _():
            start(n + 1, 1 - at)

        for copy in copies(n, at):
            copy.wait()
        d = _pack(cotangents.at[at], packed, spec)
        window = Window.of(windows, listed[0, 0, 0, 0, n + 1])
        columns = near(window.left, window.right, 1)

        def add_row(y, _):
            def add_tile(x, _):
                first = origin[0] + y * TILE[0], origin[1] + x * TILE[1]
                total[y, x] += _interpolate(_interpolation(tables[at], first, spec), d)

            jax.lax.fori_loop(*columns, add_tile, None)

        jax.lax.fori_loop(*near(window.top, window.bottom, 0), add_row, None)
        return 1 - at

    total[...] = jnp.zeros_like(total)
    packed[...] = jnp.zeros_like(packed)
    pl.when(count > 0)(lambda: start(zero, zero))
    jax.lax.fori_loop(zero, count, add_roi, zero)
    for y in range(out.shape[1] // TILE[0]):
        for x in range(out.shape[2] // TILE[1]):
            cells = total[y, x].reshape(*TILE, -1).astype(out.dtype)
            out[0, pl.ds(y * TILE[0], TILE[0]), pl.ds(x * TILE[1], TILE[1])] = cells
