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


def conv(
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    bias: bool = True,
    init=msra,
    dtype=jnp.float32,
    groups: int = 1,
    dilation: int = 1,
    name: str | None = None,
) -> nn.Conv:
    """A square NHWC convolution, padded by (kernel - 1) / 2 (times the dilation) on all sides, as torch does."""
    pad = (kernel - 1) // 2 * dilation
    return nn.Conv(
        channels,
        (kernel, kernel),
        strides=stride,
        padding=((pad, pad), (pad, pad)),
        use_bias=bias,
        kernel_init=init,
        feature_group_count=groups,
        kernel_dilation=dilation,
        dtype=dtype,
        conv_general_dilated=convolution.convolve,
        name=name,
    )


def roi_convolutions(
    x: Float[Array, "B R h w C"],
    stats: Bool[Array, "B R"],
    *,
    count: int,
    channels: int,
    norm: Callable[..., nn.Module],
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
    norm: Callable[..., nn.Module],
    train: bool,
    dtype=jnp.float32,
    name: str,
) -> Float[Array, "B R H W D"]:
    """One of them: `conv` and `norm` of the calling module, each followed by `name`."""
    bias = norm is norms.Identity
    convolution = conv(channels, kernel, stride=stride, bias=bias, dtype=dtype, name=f"conv{name}")
    flat = convolution(x.reshape(-1, *x.shape[2:]))
    cells = cells_of_rois(stats, flat.shape[1:3])
    flat = nn.relu(norm(name=f"norm{name}")(flat, mask=cells, train=train))
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
