"""RoIAlign on GPUs through Pallas' Triton backend: for jax releases and GPUs where that is the one that works.

Deprecated in jax since 0.11; `mosaic_gpu.py` launches the same bodies. In interpret mode these launchers are how the
bodies are tested without a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
from jax.experimental import pallas as pl

from pallas_kernels.roi_align import gpu_launch
from pallas_kernels.roi_align.grid import Spec
from pallas_kernels.roi_align.operator import Implementation

LEAST_CAPABILITY = 8.0


def _launch(body: Callable, name: str, out, programs: int, inputs, *, interpret: bool):
    """Runs `body(program, *inputs, out)` once a program, on whole arrays in device memory."""

    def kernel(*refs):
        body(pl.program_id(0), *refs)

    return pl.pallas_call(
        kernel,
        out_shape=out,
        grid=(programs,),
        compiler_params=None if interpret else _compiler_params(),
        interpret=interpret,
        name=name,
    )(*inputs)


def _compiler_params():
    from jax.experimental.pallas import triton  # not in every jax release

    return triton.CompilerParams(num_warps=2, num_stages=1)


def check(spec: Spec) -> None:
    """Raises NotImplementedError for what the kernels do not cover."""
    _check_shapes(spec)
    try:
        _compiler_params()
    except ImportError as error:
        raise NotImplementedError(f"this jax ({jax.__version__}) has no Triton backend.") from error


_check_shapes = functools.partial(gpu_launch.check, name="triton", least_block=32)


def implementation(*, interpret: bool = False) -> Implementation:
    """`interpret`: run the bodies on a CPU, with or without Triton."""
    launch = functools.partial(_launch, interpret=interpret)
    return gpu_launch.implementation(launch, _check_shapes if interpret else check)


IMPLEMENTATION = implementation()
