"""RoIAlign on TPUs: launches the bodies of `tpu_kernels.py` through Pallas' Mosaic TPU backend."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.roi_align import tiles, tpu_kernels
from pallas_kernels.roi_align.grid import DROPPED, Grid, Spec
from pallas_kernels.roi_align.operator import Implementation, images_for_vmap
from pallas_kernels.roi_align.tpu_kernels import ALIGN, BLOCK, TILE, channel_block, pitch

_MOST_BINS = 1024


def check(spec: Spec) -> None:
    """Raises NotImplementedError for what the kernels do not cover."""
    if spec.dtype not in (jnp.float32, jnp.bfloat16):
        raise NotImplementedError(f"tpu takes float32 and bfloat16, not {spec.dtype}.")
    if spec.channels % 128:
        raise NotImplementedError(
            f"tpu needs channels that are a multiple of 128, got {spec.channels}."
        )
    if _bins(spec) > _MOST_BINS:
        raise NotImplementedError(
            f"tpu keeps all bins of a RoI on the chip, {_MOST_BINS} at most (rows rounded up to a multiple of 8): "
            f"got {spec.output_size}."
        )


def implementation(*, interpret=False) -> Implementation:
    """`interpret`: as of `pallas_call`, to run the kernels on a CPU."""

    def forward(features, grid, weights, spec: Spec):
        call = images_for_vmap(functools.partial(_forward, spec, interpret))
        return call(features, _float32(grid), weights)

    def d_features(d_out, grid, weights, spec: Spec):
        call = images_for_vmap(functools.partial(_d_features, spec, interpret))
        return call(d_out, _float32(grid), weights)

    def d_weights(features, d_out, grid, spec: Spec):
        call = images_for_vmap(functools.partial(_d_weights, spec, interpret))
        return call(features, d_out, _float32(grid))

    return Implementation(forward, d_features, d_weights, check)


IMPLEMENTATION = implementation()


def _float32(grid: Grid) -> Grid:
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.int32)), grid)


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
        # One past the cell of `first` may be the cell of `last`, hence ceil.
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
        return x.reshape(*x.shape[:3], -1)

    rows = grid.rows.reshape(batch, rois, h, s).swapaxes(2, 3)[..., None]
    columns = grid.columns.reshape(batch, rois, w, s).swapaxes(2, 3)[..., None, :]
    factors = grid.mean[..., None, None, None]
    if weights is not None:
        weights = weights.astype(jnp.float32).reshape(batch, rois, h, s, w, s)
        factors *= weights.transpose(0, 1, 3, 5, 2, 4).reshape(batch, rois, s * s, h, w)
    return jnp.concatenate([spread(x) for x in (rows, columns, factors)], axis=2)


def _per_roi(*shape: int):
    return pl.BlockSpec((1, 1, *shape), lambda b, r, c: (b, r, *(0 for _ in shape)))


_OF_IMAGE = pltpu.MemorySpace.SMEM
_UNTOUCHED = pl.BlockSpec(memory_space=pl.ANY)


def _windows_spec(windows):
    return pl.BlockSpec(
        (1, *windows.shape[1:]), lambda b, *_: (b, 0, 0), memory_space=pltpu.MemorySpace.SMEM
    )


def _tile_buffers(spec: Spec):
    return [
        pltpu.VMEM((2, *TILE, channel_block(spec.channels)), spec.dtype),
        pltpu.SemaphoreType.DMA((2,)),
        pltpu.SMEM((1,), jnp.int32),
    ]


def _forward(spec: Spec, interpret, features, grid: Grid, weights):
    batch, rois = grid.level.shape
    out = jax.ShapeDtypeStruct((batch, rois, *spec.output_size, spec.channels), spec.dtype)
    if not out.size:
        return jnp.zeros(out.shape, out.dtype)
    features = _padded(features)
    windows = _windows(grid, [x.shape[1:3] for x in features])
    table = _table(grid, weights, spec)
    block = channel_block(spec.channels)
    return pl.pallas_call(
        functools.partial(tpu_kernels.forward, spec=spec),
        out_shape=out,
        grid=(batch, rois, spec.channels // block),
        in_specs=[
            _windows_spec(windows),
            _per_roi(*table.shape[2:]),
            *[_UNTOUCHED] * len(features),
        ],
        out_specs=pl.BlockSpec((1, 1, *spec.output_size, block), lambda b, r, c: (b, r, 0, 0, c)),
        scratch_shapes=[pltpu.VMEM((_bins(spec), block), jnp.float32), *_tile_buffers(spec)],
        compiler_params=_params("parallel", "arbitrary", "arbitrary"),
        interpret=interpret,
        name="roi_align",
    )(windows, table, *features)


def _d_weights(spec: Spec, interpret, features, d_out, grid: Grid):
    batch, rois = grid.level.shape
    (h, w), s = spec.output_size, spec.samples
    if not batch * rois:
        return jnp.zeros((batch, rois, h * s, w * s), jnp.float32)
    features = _padded(features)
    windows = _windows(grid, [x.shape[1:3] for x in features])
    table = _table(grid, None, spec)
    block = channel_block(spec.channels)
    out = pl.pallas_call(
        functools.partial(tpu_kernels.d_weights, spec=spec),
        out_shape=jax.ShapeDtypeStruct((batch, rois, s * s, _bins(spec)), jnp.float32),
        grid=(batch, rois, spec.channels // block),
        in_specs=[
            _windows_spec(windows),
            _per_roi(*table.shape[2:]),
            pl.BlockSpec((1, 1, h, w, block), lambda b, r, c: (b, r, 0, 0, c)),
            *[_UNTOUCHED] * len(features),
        ],
        out_specs=_per_roi(s * s, _bins(spec)),
        scratch_shapes=[pltpu.VMEM((_bins(spec), block), jnp.float32), *_tile_buffers(spec)],
        compiler_params=_params("parallel", "arbitrary", "arbitrary"),
        interpret=interpret,
        name="roi_align_d_weights",
    )(windows, table, d_out, *features)
    out = out.reshape(batch, rois, s, s, h, pitch(spec))[..., :w]
    return out.transpose(0, 1, 4, 2, 5, 3).reshape(batch, rois, h * s, w * s)


def _d_features(spec: Spec, interpret, d_out, grid: Grid, weights):
    table = _table(grid, weights, spec)
    windows = _windows(grid, spec.shapes)
    return tuple(
        _d_features_of(level, spec, interpret, d_out, grid, windows, table)
        for level in range(len(spec.shapes))
    )


def _lists(grid: Grid, level: int, spec: Spec):
    """For each block of a level how many RoIs touch it, and which: (B, blocks_y, blocks_x, 1, 1 + R) int32."""
    ranges = []
    for positions, cells, n, per_block in zip(
        (grid.rows, grid.columns), spec.shapes[level], BLOCK, TILE, strict=True
    ):
        size = n * per_block
        positions = tiles.on_level(positions, grid.level, level, DROPPED)
        ranges.append(tiles.bin_ranges(positions, spec.samples, size, pl.cdiv(cells, size)))
    ids, counts = tiles.rois_of_blocks(*ranges, 1)
    return jnp.concatenate([counts[..., None], ids], axis=-1)[..., None, :]


def _d_features_of(level: int, spec: Spec, interpret, d_out, grid: Grid, windows, table):
    batch, rois = grid.level.shape
    out = jax.ShapeDtypeStruct((batch, *spec.shapes[level], spec.channels), spec.dtype)
    if not batch * rois:
        return jnp.zeros(out.shape, out.dtype)
    lists = _lists(grid, level, spec)
    block = channel_block(spec.channels)
    rows, columns = (n * cells for n, cells in zip(BLOCK, TILE, strict=True))
    return pl.pallas_call(
        functools.partial(tpu_kernels.d_features, spec=spec),
        out_shape=out,
        grid=(*lists.shape[:3], spec.channels // block),
        in_specs=[
            _windows_spec(windows),
            pl.BlockSpec(
                (1, 1, 1, *lists.shape[3:]),
                lambda b, y, x, c: (b, y, x, 0, 0),
                memory_space=pltpu.MemorySpace.SMEM,
            ),
            _UNTOUCHED,
            _UNTOUCHED,
        ],
        out_specs=pl.BlockSpec((1, rows, columns, block), lambda b, y, x, c: (b, y, x, c)),
        scratch_shapes=[
            pltpu.VMEM((*BLOCK, TILE[0] * TILE[1], block), jnp.float32),
            pltpu.VMEM((_bins(spec), block), jnp.float32),
            pltpu.VMEM((2, *table.shape[2:]), jnp.float32),
            pltpu.VMEM((2, *spec.output_size, block), spec.dtype),
            pltpu.SemaphoreType.DMA((2, 2)),
        ],
        compiler_params=_params("parallel", "parallel", "parallel", "parallel"),
        interpret=interpret,
        name=f"roi_align_d_features_{level}",
    )(windows, lists, table, d_out)


def _params(*semantics: str):
    return pltpu.CompilerParams(dimension_semantics=semantics)
