"""From the operator's three functions to launches of the GPU kernel bodies, the same for every backend."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pallas_kernels.roi_align import gpu_kernels, tiles
from pallas_kernels.roi_align.grid import DROPPED, Grid, Spec
from pallas_kernels.roi_align.operator import Implementation, of_kernels

# launch(body, name, out, programs, inputs): runs body(program, *inputs, out) for each program, the arrays as refs in
# device memory, and returns the array(s) of `out`.
Launch = Callable


def check(spec: Spec, name: str, *, least_block: int) -> None:
    """Raises NotImplementedError for what the bodies do not cover."""
    if spec.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        raise NotImplementedError(f"{name} takes float32, bfloat16 and float16, not {spec.dtype}.")
    if gpu_kernels.channel_block(spec.channels) < least_block:
        raise NotImplementedError(
            f"{name} needs channels that are a multiple of {least_block}, got {spec.channels}."
        )


def implementation(launch: Launch, check: Callable[[Spec], None], **options) -> Implementation:
    """`options` go to the body of the backward."""

    return of_kernels(
        functools.partial(_forward, launch),
        functools.partial(_d_features, launch, options),
        functools.partial(_d_weights, launch),
        check,
    )


def _forward(launch: Launch, spec: Spec, features, grid: Grid, weights):
    batch, rois = grid.level.shape
    out = jax.ShapeDtypeStruct((batch, rois, *spec.output_size, spec.channels), spec.dtype)
    programs = gpu_kernels.forward_programs(batch, rois, spec)
    body = functools.partial(gpu_kernels.forward, spec=spec)
    return _nonempty(launch, body, "roi_align", out, programs, (features, grid, weights))


def _d_weights(launch: Launch, spec: Spec, features, d_out, grid: Grid):
    batch, rois = grid.level.shape
    samples = (bins * spec.samples for bins in spec.output_size)
    out = jax.ShapeDtypeStruct((batch, rois, *samples), jnp.float32)
    programs = gpu_kernels.d_weights_programs(batch, rois, spec)
    body = functools.partial(gpu_kernels.d_weights, spec=spec)
    return _nonempty(launch, body, "roi_align_d_weights", out, programs, (features, d_out, grid))


def _d_features(launch: Launch, options, spec: Spec, d_out, grid: Grid, weights):
    batch = grid.level.shape[0]
    gradients = []
    for level, shape in enumerate(spec.shapes):
        ranges = tuple(
            tiles.bin_ranges(
                tiles.on_level(positions, grid.level, level, DROPPED),
                spec.samples,
                gpu_kernels.TILE,
                count,
            )
            for positions, count in zip(
                (grid.rows, grid.columns), gpu_kernels.tile_counts(shape), strict=True
            )
        )
        lists = tiles.rois_of_blocks(*ranges, gpu_kernels.BLOCK)
        out = jax.ShapeDtypeStruct((batch, *shape, spec.channels), spec.dtype)
        programs = gpu_kernels.d_features_programs(batch, shape, spec)
        body = functools.partial(gpu_kernels.d_features, spec=spec, shape=shape, **options)
        inputs = (d_out, grid, weights, ranges, lists)
        gradients.append(
            _nonempty(launch, body, f"roi_align_d_features_{level}", out, programs, inputs)
        )
    return tuple(gradients)


def _nonempty(launch: Launch, body, name: str, out, programs: int, inputs):
    """Backends do not take arrays without elements."""
    if any(x.size == 0 for x in jax.tree.leaves(inputs)):
        return jnp.zeros(out.shape, out.dtype)
    return launch(body, name, out, programs, inputs)
