"""RoIAlign on Hopper and newer GPUs through `plgpu.kernel`, the GPU interface of Pallas that is there to stay."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax

from pallas_kernels.roi_align import gpu_launch
from pallas_kernels.roi_align.grid import Spec
from pallas_kernels.roi_align.operator import Implementation

LEAST_CAPABILITY = 9.0


def _launch(body: Callable, name: str, out, programs: int, inputs, *, interpret=None):
    """Runs `body(program, *inputs, out)` once a program, on whole arrays in device memory."""

    def kernel(*refs):
        body(lax.axis_index("program"), *refs)

    return plgpu.kernel(
        kernel,
        out_type=out,
        grid=(programs,),
        grid_names=("program",),
        # No kernel reads memory that it also writes, so none needs the barriers put around every load and store.
        compiler_params=plgpu.CompilerParams(unsafe_no_auto_barriers=True),
        interpret=interpret,
        kernel_name=name,
    )(*inputs)


def _zeros(n: int):
    """A sum's start in the layout of a loaded vector, as a loop's carry must have it."""
    return plgpu.layout_cast(
        jnp.zeros((n,), jnp.float32), plgpu.Layout.WG_STRIDED((n,), vec_size=n // 128)
    )


def check(spec: Spec) -> None:
    """Raises NotImplementedError for what the kernels do not cover: a vector spans the 128 threads of a warpgroup."""
    gpu_launch.check(spec, "mosaic_gpu", least_block=128)


def implementation(*, interpret=None) -> Implementation:
    """`interpret`: jax's InterpretGPUParams() (in jax 0.10 a private class) to run the kernels on a CPU."""
    # The interpreter has no layouts, and in jax 0.10 no layout_cast.
    zeros = {} if interpret else {"zeros": _zeros}
    return gpu_launch.implementation(
        functools.partial(_launch, interpret=interpret), check, **zeros
    )


IMPLEMENTATION = implementation()
