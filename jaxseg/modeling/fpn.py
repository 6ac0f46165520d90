"""Feature Pyramid Network (Lin et al. 2017): P2..P5 from C2..C5, and P6 for the RPN."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.modeling import layers, norms
from jaxseg.structures import Pyramid


class FPN(nn.Module):
    """Lateral 1x1, nearest top-down, 3x3 output convolutions; P6 is every second cell of P5."""

    channels: int = 256
    norm: Callable[..., norms.Norm] = norms.Identity
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        features: Sequence[Float[Array, "B _ _ _"]],
        image_size: Float[Array, "B 2"],
        *,
        strides: Sequence[int],
        train: bool,
    ) -> Pyramid:
        """features, strides: finest first. Returns one level more than it takes, all of `channels`."""
        use_bias = self.norm is norms.Identity

        def unit(x, kernel, stride, kind):
            name = (
                f"{kind}{stride.bit_length() - 1}"  # stride 4 is level 2, named as the paper does
            )
            conv = layers.Conv(
                self.channels,
                kernel,
                bias=use_bias,
                kernel_init=layers.xavier,
                dtype=self.dtype,
                name=name,
            )
            mask = layers.cells_of_image(image_size, *x.shape[1:3], stride)
            norm = self.norm(name=f"{name}_norm")
            return layers.normed(conv, norm, x, mask=mask, train=train)

        merged, levels = None, []
        for feature, stride in reversed(list(zip(features, strides, strict=True))):
            lateral = unit(feature, 1, stride, "lateral")
            merged = lateral if merged is None else lateral + layers.double(merged)
            levels.append(unit(merged, 3, stride, "output"))
        levels = [*reversed(levels), levels[0][:, ::2, ::2]]
        return Pyramid(tuple(levels), image_size, (*strides, strides[-1] * 2))
