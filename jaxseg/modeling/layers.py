"""Convolution and initialisers in the forms that detectors use, and which cells of a canvas hold the image."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg.modeling import norms
from jaxseg.ops import convolution

# He et al. 2015 in Caffe2's two forms: `msra` keeps the variance of gradients, `xavier` that of activations.
msra = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
xavier = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
normal = nn.initializers.normal


class Conv(nn.Module):
    """A square NHWC convolution, padded by (kernel - 1) / 2 (times the dilation) on all sides, as torch does."""

    channels: int
    kernel: int
    stride: int = 1
    bias: bool = True
    kernel_init: Callable[..., Array] = msra
    dtype: jnp.dtype = jnp.float32
    groups: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "*B H W C"], affine: norms.Affine | None = None
    ) -> Float[Array, "*B P Q D"]:
        """`affine`: of a norm that follows."""
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.channels)
        kernel, bias = self.param("kernel", self.kernel_init, shape, jnp.float32), None
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32)
        factor = None
        if affine is not None:
            factor, offset = affine
            bias = offset if bias is None else bias * factor + offset
        pad = (self.kernel - 1) // 2 * self.dilation
        y = convolution.scaled(
            x.reshape(-1, *x.shape[-3:]).astype(self.dtype),
            jnp.asarray(kernel),  # whose variables may be NumPy's
            factor,
            window_strides=(self.stride, self.stride),
            padding=((pad, pad), (pad, pad)),
            rhs_dilation=(self.dilation, self.dilation),
            feature_group_count=self.groups,
        )
        y = y.reshape(*x.shape[:-3], *y.shape[1:])
        return y if bias is None else y + bias.astype(self.dtype)


def normed(
    conv: nn.Module,
    norm: norms.Norm,
    x: Float[Array, "B H W C"],
    *,
    mask: Bool[Array, "B P Q"] | None,
    train: bool,
) -> Float[Array, "B P Q D"]:
    """`conv`, then `norm`: as a factor of the convolution and a bias where it is a multiply-add, whatever x is."""
    affine = norm.affine(conv.channels)
    return norm(conv(x), mask=mask, train=train) if affine is None else conv(x, affine)


def roi_convolutions(
    x: Float[Array, "B R h w C"],
    stats: Bool[Array, "B R"],
    *,
    count: int,
    channels: int,
    norm: Callable[..., norms.Norm],
    train: bool,
    dtype=jnp.float32,
) -> Float[Array, "B R h w D"]:
    """`count` 3x3 convolutions of pooled features, each with `norm` and ReLU: conv0, norm0, ... of the calling module.

    `stats` says which RoIs enter the statistics of the norms.
    """
    made = {"stats": stats, "channels": channels, "norm": norm, "train": train, "dtype": dtype}
    for index in range(count):
        x = roi_convolution(x, kernel=3, name=str(index), **made)
    return x


def roi_convolution(
    x: Float[Array, "B R h w C"],
    stats: Bool[Array, "B R"],
    *,
    channels: int,
    kernel: int,
    stride: int = 1,
    norm: Callable[..., norms.Norm],
    train: bool,
    dtype=jnp.float32,
    name: str,
) -> Float[Array, "B R H W D"]:
    """One of them: `conv` and `norm` of the calling module, each followed by `name`."""
    bias = norm is norms.Identity
    conv = Conv(channels, kernel, stride=stride, bias=bias, dtype=dtype, name=f"conv{name}")
    cells = cells_of_rois(stats, tuple(-(-size // stride) for size in x.shape[2:4]))
    flat = x.reshape(-1, *x.shape[2:])
    flat = nn.relu(normed(conv, norm(name=f"norm{name}"), flat, mask=cells, train=train))
    return flat.reshape(*x.shape[:2], *flat.shape[1:])


def roi_deconvolution(
    x: Float[Array, "B R h w C"], channels: int, *, dtype=jnp.float32, name: str
) -> Float[Array, "B R H W D"]:
    """`Deconv2x2` of pooled features, with ReLU."""
    return nn.relu(of_rois(Deconv2x2(channels, dtype, name=name), x))


def of_rois(module: Callable[[Array], Array], x: Float[Array, "B R *S"]) -> Float[Array, "B R *T"]:
    """What takes one leading axis, for two."""
    made = module(x.reshape(-1, *x.shape[2:]))
    return made.reshape(*x.shape[:2], *made.shape[1:])


class Deconv2x2(nn.Module):
    """A 2x2 transposed convolution of stride 2: output (2y + i, 2x + j) is input (y, x) times kernel[i, j].

    Windows do not overlap, so it is one matrix product. XLA's own transposed convolution is as fast forward, but its
    gradients took 8 times longer on a CPU (128 x 14 x 14 x 64 to 64 channels: 0.30 s against 0.04 s).
    """

    channels: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N 2*H 2*W D"]:
        n, h, w, c = x.shape
        kernel = self.param("kernel", msra, (2, 2, c, self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        x, kernel, bias = (v.astype(self.dtype) for v in (x, kernel, bias))
        y = x.reshape(-1, c) @ kernel.transpose(2, 0, 1, 3).reshape(c, -1)
        y = y.reshape(n, h, w, 2, 2, self.channels).transpose(0, 1, 3, 2, 4, 5)
        return y.reshape(n, 2 * h, 2 * w, self.channels) + bias


def cells_of_image(
    image_size: Float[Array, "B 2"], height: int, width: int, stride: int
) -> Bool[Array, "B H W"]:
    """Which cells of a level with `stride` lie (at least partly) on the unpadded image of (height, width) pixels."""
    rows = jnp.arange(height) * stride < image_size[:, :1]
    columns = jnp.arange(width) * stride < image_size[:, 1:]
    return rows[:, :, None] & columns[:, None, :]


def cells_of_rois(stats: Bool[Array, "B R"], size: tuple[int, int]) -> Bool[Array, "N h w"]:
    """Which cells of pooled features (B * R, h, w, C) enter the statistics of a norm: all of the RoIs that do."""
    return jnp.broadcast_to(stats.reshape(-1, 1, 1), (stats.size, *size))


def double(x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W C"]:
    """Nearest-neighbour upsampling by two."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
