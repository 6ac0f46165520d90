"""Convolutions of NHWC maps that are matrix products on a CPU where that is faster; elsewhere they are XLA's own.

XLA's gradient of a kernel is a convolution by a kernel of the size of the map, for which a CPU transposes both maps,
and its 1x1 convolutions are far below the rate of a matrix product (docs/performance.md has the numbers).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxseg.ops import shards

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_BLOCK = 1024  # outputs: with 256 channels, what is multiplied lies in the cache of a core
_FEWEST_CHANNELS = 32  # of larger kernels: with 16, XLA's gradient was faster


class _Spec(NamedTuple):
    """What is the same for all images and channels; (height, width) each."""

    size: tuple[int, int]
    window: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    precision: Any

    @property
    def pointwise(self) -> bool:
        return self.window == (1, 1) and self.padding == ((0, 0), (0, 0))


def convolve(
    x: Float[Array, "N H W C"],
    kernel: Float[Array, "h w I D"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] = (1, 1),
    rhs_dilation: Sequence[int] = (1, 1),
    feature_group_count: int = 1,
    precision: Any = None,
) -> Float[Array, "N Y X D"]:
    """`jax.lax.conv_general_dilated` of such maps. It has no forward-mode derivative.

    `I` are the channels of a group. With groups, and transposed (`lhs_dilation`), it is XLA's on every platform.
    """
    if feature_group_count > 1 or tuple(lhs_dilation) != (1, 1):
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=_LAYOUT,
            feature_group_count=feature_group_count,
            precision=precision,
        )
    spec = _Spec(
        size=x.shape[1:3],
        window=kernel.shape[:2],
        strides=tuple(window_strides),
        padding=tuple(map(tuple, padding)),
        dilation=tuple(rhs_dilation),
        precision=precision,
    )
    return _convolve(spec, x, kernel)


def scaled(
    x: Float[Array, "N H W C"],
    kernel: Float[Array, "h w I D"],
    factor: Float[Array, "D"] | None,
    **settings: Any,
) -> Float[Array, "N Y X D"]:
    """`convolve` in the dtype of `x`, its outputs times `factor` if there is one.

    The kernel takes the factor, in its own dtype, so that what follows is a bias and a ReLU: of these three a GPU's
    library makes one kernel. A CPU has to pass over the outputs anyway, where a factor is free, and the kernels are
    more: 25 million weights a call in a ResNet-50.
    """
    convolved = functools.partial(_cast_and_convolve, settings)
    if factor is None:
        return convolved(x, kernel)
    return lax.platform_dependent(
        x,
        kernel,
        factor,
        cpu=lambda x, kernel, factor: convolved(x, kernel) * factor.astype(x.dtype),
        default=lambda x, kernel, factor: convolved(x, kernel * factor),
    )


def _cast_and_convolve(settings: dict[str, Any], x: Array, kernel: Array) -> Array:
    return convolve(x, kernel.astype(x.dtype), **settings)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(spec: _Spec, x: Array, kernel: Array) -> Array:
    return _chosen(spec.pointwise, _product, _xla, spec, x, kernel)


def _forward(spec, x, kernel):
    """Keeps of each what the gradient of the other is made of, if that is asked for."""
    kept_x = x.value if kernel.perturbed else None
    kept_kernel = kernel.value if x.perturbed else None
    return _convolve(spec, x.value, kernel.value), (kept_x, kept_kernel)


def _backward(spec, kept, dy):
    x, kernel = kept
    if isinstance(dy, jax.custom_derivatives.SymbolicZero):
        return None, None
    dx = dkernel = None
    if kernel is not None:
        dx = _chosen(spec.pointwise, _product_dx, _xla_dx, spec, kernel, dy)
    if x is not None:
        products = spec.pointwise or x.shape[-1] >= _FEWEST_CHANNELS
        ours = _product_dkernel if spec.pointwise else _taps_dkernel
        dkernel = _chosen(products, ours, _xla_dkernel, spec, x, dy)
    return dx, dkernel


_convolve.defvjp(_forward, _backward, symbolic_zeros=True)


def _chosen(on_cpu: bool, ours, xla, spec: _Spec, *arrays: Array) -> Array:
    """`ours` on a CPU, if it is asked for there; else `xla`."""
    xla = functools.partial(xla, spec)
    if not on_cpu:
        return xla(*arrays)
    return lax.platform_dependent(*arrays, cpu=functools.partial(ours, spec), default=xla)


def _xla(spec: _Spec, x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        spec.strides,
        spec.padding,
        rhs_dilation=spec.dilation,
        dimension_numbers=_LAYOUT,
        precision=spec.precision,
    )


def _xla_dx(spec: _Spec, kernel: Array, dy: Array) -> Array:
    x = jax.ShapeDtypeStruct((dy.shape[0], *spec.size, kernel.shape[2]), dy.dtype)
    return jax.linear_transpose(lambda x: _xla(spec, x, kernel), x)(dy)[0]


def _xla_dkernel(spec: _Spec, x: Array, dy: Array) -> Array:
    kernel = jax.ShapeDtypeStruct((*spec.window, x.shape[-1], dy.shape[-1]), dy.dtype)
    return jax.linear_transpose(lambda kernel: _xla(spec, x, kernel), kernel)(dy)[0]


def _product(spec: _Spec, x: Array, kernel: Array) -> Array:
    """A 1x1 convolution."""
    return lax.dot_general(
        _met(spec, x), kernel[0, 0], (((3,), (0,)), ((), ())), precision=spec.precision
    )


def _product_dx(spec: _Spec, kernel: Array, dy: Array) -> Array:
    dx = lax.dot_general(dy, kernel[0, 0], (((3,), (1,)), ((), ())), precision=spec.precision)
    spread = [
        (0, size - (count - 1) * stride - 1, stride - 1)
        for size, count, stride in zip(spec.size, dy.shape[1:3], spec.strides, strict=True)
    ]
    return lax.pad(dx, jnp.zeros((), dx.dtype), [(0, 0, 0), *spread, (0, 0, 0)])


def _product_dkernel(spec: _Spec, x: Array, dy: Array) -> Array:
    """As for larger kernels, with the roles of `x` and `dy` such that the narrower one is turned."""
    x, one = _met(spec, x), spec._replace(strides=(1, 1))
    if x.shape[-1] < dy.shape[-1]:
        return _taps_dkernel(one, dy, x).swapaxes(2, 3)
    return _taps_dkernel(one, x, dy)


def _met(spec: _Spec, x: Array) -> Array:
    """The cells that a 1x1 kernel meets."""
    return x[:, :: spec.strides[0], :: spec.strides[1]]


def _taps_dkernel(spec: _Spec, x: Array, dy: Array) -> Array:
    """Each device its own images, and the sum of all: the partitioner would gather what a loop slices."""
    each = shards.per_shard(lambda x, dy: _taps(spec, x, dy)[None])
    return each(x, dy).sum(0).astype(dy.dtype)


def _taps(spec: _Spec, x: Array, dy: Array) -> Array:
    """The gradient of the kernel, a matrix product for each of its cells: (h, w, C, D), at least in float32.

    Products over all outputs at once wait for memory; this one goes over blocks of them.
    """
    count, height, width, channels = dy.shape
    images, rows = _block(count, height, width)
    x = jnp.pad(x, ((0, 0), *spec.padding, (0, 0)))
    dtype = jnp.promote_types(dy.dtype, jnp.float32)
    needed = (rows - 1) * spec.strides[0] + (spec.window[0] - 1) * spec.dilation[0] + 1

    def add(total, index):
        image, row = index // (height // rows) * images, index % (height // rows) * rows
        start = (image, row * spec.strides[0], 0, 0)
        block = lax.dynamic_slice(x, start, (images, needed, *x.shape[2:]))
        outputs = lax.dynamic_slice(dy, (image, row, 0, 0), (images, rows, width, channels))
        # Turned once for all cells. Without the barrier each product would do it.
        turned = lax.optimization_barrier(outputs.reshape(-1, channels).T)
        multiply = functools.partial(
            jnp.matmul, turned, precision=spec.precision, preferred_element_type=dtype
        )
        cells = [multiply(cell) for cell in _cells(spec, block, rows, width)]
        return total + jnp.concatenate(cells, axis=1), None

    (h, w), c = spec.window, x.shape[-1]
    begin = jnp.zeros((channels, h * w * c), dtype)
    blocks = jnp.arange((count // images) * (height // rows))
    return lax.scan(add, begin, blocks)[0].T.reshape(h, w, c, channels)


def _block(count: int, height: int, width: int) -> tuple[int, int]:
    """(images, rows) of a block of outputs: divisors of `count` and `height`, rows of several images only if whole."""
    rows = _divisor(height, _BLOCK // width)
    return (_divisor(count, _BLOCK // (height * width)) if rows == height else 1), rows


def _divisor(number: int, limit: int) -> int:
    """The largest one that is not above `limit`, or 1."""
    return next(d for d in range(max(1, min(number, limit)), 0, -1) if number % d == 0)


def _cells(spec: _Spec, x: Array, rows: int, width: int) -> Iterator[Array]:
    """(outputs, C) for each cell of the kernel: the part of the padded map that it meets."""
    (sy, sx), (dy, dx) = spec.strides, spec.dilation
    for top in range(0, spec.window[0] * dy, dy):
        for left in range(0, spec.window[1] * dx, dx):
            met = x[
                :, top : top + (rows - 1) * sy + 1 : sy, left : left + (width - 1) * sx + 1 : sx
            ]
            yield met.reshape(-1, x.shape[-1])
