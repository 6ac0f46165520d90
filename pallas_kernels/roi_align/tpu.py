"""RoIAlign on TPUs: what the bodies of `tpu_kernels.py` are given, and their launches through Pallas' Mosaic backend.

The forward and the gradient of the weights run one program a RoI, which walks over the tiles of the RoI's window on its
level's map; the maps stay in HBM. The gradient of the features runs, for each level, one program a block of its cells,
which owns that part of the output and walks over the RoIs that touch it: no atomics, and the same bits each time. A RoI
of more than 1024 bins is several RoIs to them (`strips`).

In fast memory are, whatever the number of images: an image's windows and a block's list (28 and 4 bytes a RoI), two
tiles of a map, a block of the gradient, and for each bin of a RoI a few vectors of at most 512 channels. The largest
case that `check` lets through compiles within what the compiler grants on a v5e.

It has never been run on a TPU. What was done without one: interpret mode on CPUs, generic and TPU-like, the latter also
with its race detector; and the full ahead-of-time compilation for v5e and v6e with libtpu 0.0.52, on jax 0.10.2 and
0.12.0, in float32 and bfloat16, for 7x7 and 14x14 bins on P2 to P5 of 16 images of 800x1344.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.roi_align import tiles, tpu_kernels
from pallas_kernels.roi_align.grid import DROPPED, Grid, Spec
from pallas_kernels.roi_align.operator import Implementation, of_kernels
from pallas_kernels.roi_align.strips import in_strips
from pallas_kernels.roi_align.tpu_kernels import ALIGN, BLOCK, TILE, channel_block, pitch

_MOST_BINS = 1024
_MOST_ROIS = 8192  # a table of 8 numbers each, in two buffers, is half of the scalar memory
_ZERO = np.int32(0)  # a plain 0 has 64 bits under jax_enable_x64, too many for an index map
_BLOCK_CELLS = tuple(n * cells for n, cells in zip(BLOCK, TILE, strict=True))


def check(spec: Spec) -> None:
    """Raises NotImplementedError for what the kernels do not cover."""
    if spec.dtype not in (jnp.float32, jnp.bfloat16):
        raise NotImplementedError(f"tpu takes float32 and bfloat16, not {spec.dtype}.")
    if spec.channels % 128:
        raise NotImplementedError(
            f"tpu needs channels that are a multiple of 128, got {spec.channels}."
        )
    if spec.rois > _MOST_ROIS:
        raise NotImplementedError(
            f"tpu keeps a table of an image's RoIs in scalar memory, {_MOST_ROIS} at most, and one of more than "
            f"{_MOST_BINS} bins counts as several: got {spec.rois}."
        )
    if _bins(spec) > _MOST_BINS:
        raise NotImplementedError(
            f"tpu keeps whole rows of bins on the chip, {_MOST_BINS} at most (rounded up to a multiple of 8): "
            f"got {spec.output_size[1]} in a row."
        )


def implementation(*, interpret=False) -> Implementation:
    """`interpret`: as of `pallas_call`, to run the kernels on a CPU."""

    kernels = of_kernels(
        functools.partial(_forward, interpret),
        functools.partial(_d_features, interpret),
        functools.partial(_d_weights, interpret),
        check,
    )
    return in_strips(kernels, lambda spec: _MOST_BINS // pitch(spec))


def _forward(interpret, spec: Spec, features, grid: Grid, weights):
    out = jax.ShapeDtypeStruct((*grid.level.shape, *spec.output_size, spec.channels), spec.dtype)
    table = _table(grid, weights, spec)
    return _each_roi(
        tpu_kernels.forward, out, _pooled_block(spec), spec, interpret, features, grid, table
    )


def _d_weights(interpret, spec: Spec, features, d_out, grid: Grid):
    shape, (h, w), s = grid.level.shape, spec.output_size, spec.samples
    out = jax.ShapeDtypeStruct((*shape, s * s, _bins(spec)), jnp.float32)
    table = _table(grid, None, spec)
    block = _roi_block(out)
    out = _each_roi(
        tpu_kernels.d_weights, out, block, spec, interpret, features, grid, table, d_out
    )
    out = out.reshape(*shape, s, s, h, pitch(spec))[..., :w]
    return out.transpose(0, 1, 4, 2, 5, 3).reshape(*shape, h * s, w * s)


def _d_features(interpret, spec: Spec, d_out, grid: Grid, weights):
    table, windows = _table(grid, weights, spec), _windows(grid, spec.shapes)
    return tuple(
        _d_level(level, spec, interpret, grid, windows, table, d_out)
        for level in range(len(spec.shapes))
    )


def _each_roi(kernel, out, out_block, spec: Spec, interpret, features, grid: Grid, table, *pooled):
    """Runs a kernel once for each RoI and block of channels. `pooled`: inputs (B, R, h, w, C)."""
    if not out.size:
        return jnp.zeros(out.shape, out.dtype)
    features = _padded(features)
    windows = _windows(grid, [x.shape[1:3] for x in features])
    channels = channel_block(spec.channels)
    return pl.pallas_call(
        functools.partial(kernel, spec=spec),
        out_shape=out,
        grid=(*grid.level.shape, spec.channels // channels),
        in_specs=[
            _image_block(windows),
            _roi_block(table),
            *[_pooled_block(spec)] * len(pooled),
            *[_WHOLE] * len(features),
        ],
        out_specs=out_block,
        scratch_shapes=[
            pltpu.VMEM((_bins(spec), channels), jnp.float32),
            pltpu.VMEM((2, *TILE, channels), spec.dtype),
            pltpu.SemaphoreType.DMA((2,)),
            pltpu.SMEM((1,), jnp.int32),
        ],
        compiler_params=_params("parallel", "arbitrary", "arbitrary"),
        interpret=interpret,
        name=f"roi_align_{kernel.__name__}",
    )(windows, table, *pooled, *features)


def _d_level(level: int, spec: Spec, interpret, grid: Grid, windows, table, d_out):
    """One level's gradient."""
    out = jax.ShapeDtypeStruct((len(d_out), *spec.shapes[level], spec.channels), spec.dtype)
    if not d_out.size:
        return jnp.zeros(out.shape, out.dtype)
    lists = _lists(grid, level, spec)
    channels = channel_block(spec.channels)
    rows, columns = _BLOCK_CELLS
    return pl.pallas_call(
        functools.partial(tpu_kernels.d_features, spec=spec),
        out_shape=out,
        grid=(*lists.shape[:3], spec.channels // channels),
        in_specs=[
            _image_block(windows),
            pl.BlockSpec(
                (1, 1, 1, *lists.shape[3:]),
                lambda b, y, x, c: (b, y, x, _ZERO, _ZERO),
                memory_space=pltpu.MemorySpace.SMEM,
            ),
            _WHOLE,
            _WHOLE,
        ],
        out_specs=pl.BlockSpec((1, rows, columns, channels), lambda b, y, x, c: (b, y, x, c)),
        scratch_shapes=[
            pltpu.VMEM((*BLOCK, TILE[0] * TILE[1], channels), jnp.float32),
            pltpu.VMEM((_bins(spec), channels), jnp.float32),
            pltpu.VMEM((2, *table.shape[2:]), jnp.float32),
            pltpu.VMEM((2, *spec.output_size, channels), spec.dtype),
            pltpu.SemaphoreType.DMA((2,)),
            pltpu.SemaphoreType.DMA((2,)),
        ],
        compiler_params=_params("parallel", "parallel", "parallel", "parallel"),
        interpret=interpret,
        name=f"roi_align_d_features_{level}",
    )(windows, lists, table, d_out)


def _params(*semantics: str):
    return pltpu.CompilerParams(dimension_semantics=semantics)


_WHOLE = pl.BlockSpec(memory_space=pl.ANY)  # left where it is, for the kernel to copy parts of


def _roi_block(x):
    """What belongs to one RoI, of (B, R, m, n)."""
    return pl.BlockSpec((1, 1, *x.shape[2:]), lambda b, r, c: (b, r, _ZERO, _ZERO))


def _pooled_block(spec: Spec):
    """One RoI's bins and a block of channels, of (B, R, h, w, C)."""
    shape = (1, 1, *spec.output_size, channel_block(spec.channels))
    return pl.BlockSpec(shape, lambda b, r, c: (b, r, _ZERO, _ZERO, c))


def _image_block(x):
    """The scalars of one image, of (B, m, n)."""
    shape = (1, *x.shape[1:])
    return pl.BlockSpec(shape, lambda b, *_: (b, _ZERO, _ZERO), memory_space=pltpu.MemorySpace.SMEM)


def _bins(spec: Spec) -> int:
    return spec.output_size[0] * pitch(spec)


def _padded(features):
    """Maps that a tile fits into, and whose aligned tiles can end at their last column."""

    def pad(x):
        _, height, width, _ = x.shape
        more_rows = max(TILE[0] - height, 0)
        more_columns = max(TILE[1] - width, -width % ALIGN)
        if not (more_rows or more_columns):
            return x
        return jnp.pad(x, ((0, 0), (0, more_rows), (0, more_columns), (0, 0)))

    return [pad(x) for x in features]


def _windows(grid: Grid, shapes) -> jax.Array:
    """The fields of `tpu_kernels.Window` for every RoI: (B, 7, R) int32."""

    def ends(positions):
        first = jnp.where(positions >= 0, positions, jnp.inf).min(-1)
        last = positions.max(-1)
        some = last >= 0
        first, last = jnp.where(some, jnp.floor(first), 0), jnp.where(some, jnp.ceil(last), -1)
        return first.astype(jnp.int32), last.astype(jnp.int32)

    height, width = (jnp.asarray(n, jnp.int32)[grid.level] for n in zip(*shapes, strict=True))
    fields = (grid.level, *ends(grid.rows), *ends(grid.columns), height, width)
    return jnp.stack(fields, axis=1)


def _table(grid: Grid, weights, spec: Spec) -> jax.Array:
    """The positions and factors of each bin's samples, (B, R, 2s + 1 or 2s + s^2, bins): see `_interpolation`."""
    (h, w), s = spec.output_size, spec.samples
    batch, rois = grid.level.shape

    def spread(x):  # (B, R, n, h or 1, w or 1) -> (B, R, n, bins)
        x = jnp.broadcast_to(x, (*x.shape[:3], h, w))
        x = jnp.pad(x, ((0, 0),) * 4 + ((0, pitch(spec) - w),), constant_values=DROPPED)
        return x.reshape(*x.shape[:3], _bins(spec))

    rows = grid.rows.reshape(batch, rois, h, s).swapaxes(2, 3)[..., None]
    columns = grid.columns.reshape(batch, rois, w, s).swapaxes(2, 3)[..., None, :]
    factors = grid.mean[..., None, None, None]
    if weights is not None:
        weights = weights.reshape(batch, rois, h, s, w, s)
        factors *= weights.transpose(0, 1, 3, 5, 2, 4).reshape(batch, rois, s * s, h, w)
    return jnp.concatenate([spread(x) for x in (rows, columns, factors)], axis=2)


def _lists(grid: Grid, level: int, spec: Spec):
    """For each block of a level how many RoIs touch it, and which: (B, blocks_y, blocks_x, 1, 1 + R) int32."""
    ranges = []
    axes = zip((grid.rows, grid.columns), spec.shapes[level], _BLOCK_CELLS, strict=True)
    for positions, cells, size in axes:
        positions = tiles.on_level(positions, grid.level, level, DROPPED)
        ranges.append(tiles.bin_ranges(positions, spec.samples, size, pl.cdiv(cells, size)))
    ids, counts = tiles.rois_of_blocks(*ranges, 1)
    return jnp.concatenate([counts[..., None], ids], axis=-1)[..., None, :]


IMPLEMENTATION = implementation()
