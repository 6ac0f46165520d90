"""Convolution and initialisers in the forms that detectors use, and which cells of a canvas hold the image."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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
    name: str | None = None,
) -> nn.Conv:
    """A square NHWC convolution, padded by (kernel - 1) / 2 on all sides at every stride, as torch does."""
    pad = (kernel - 1) // 2
    return nn.Conv(
        channels,
        (kernel, kernel),
        strides=stride,
        padding=((pad, pad), (pad, pad)),
        use_bias=bias,
        kernel_init=init,
        feature_group_count=groups,
        dtype=dtype,
        name=name,
    )


def cells_of_image(
    image_size: Float[Array, "B 2"], height: int, width: int, stride: int
) -> Bool[Array, "B H W"]:
    """Which cells of a level with `stride` lie (at least partly) on the unpadded image of (height, width) pixels."""
    rows = jnp.arange(height) * stride < image_size[:, :1]
    columns = jnp.arange(width) * stride < image_size[:, 1:]
    return rows[:, :, None] & columns[:, None, :]


def double(x: Float[Array, "B H W C"]) -> Float[Array, "B 2H 2W C"]:
    """Nearest-neighbour upsampling by two."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
