"""Deformable convolution as a layer: a plain convolution that first looks where it should look."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.modeling import layers, norms
from jaxseg.ops import deform_conv

VERSIONS = ("v1", "v2")  # Dai et al. 2017; Zhu et al. 2019, which also weighs the samples


class DeformConv(nn.Module):
    """A square NHWC convolution without bias, deformed by what a second one, `offset`, says of the same input.

    `kernel` is that of a plain convolution. `offset` has, of each deformable group, of each tap, (dy, dx); after all of
    these in v2 a logit of each sample's factor, again group by group: the order of mmcv and Detectron2. It starts at
    zero, where v1 is the plain convolution and v2 half of it (the sigmoid of 0).

    The canvas around an image is read as it is, as the plain convolution (and other frameworks) would: what lies there
    depends on the image's border and the parameters alone, since pixels outside of images are zero.
    """

    channels: int
    kernel: int
    stride: int = 1
    groups: int = 1
    deform_groups: int = 1
    version: str = "v1"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], affine: norms.Affine | None = None
    ) -> Float[Array, "B P Q D"]:
        """`affine`: as of `layers.Conv`; it leaves the offsets alone."""
        samples = self.deform_groups * self.kernel**2
        modulated = self.version == "v2"
        guide = layers.Conv(
            samples * (3 if modulated else 2),
            self.kernel,
            stride=self.stride,
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="offset",
        )(x)
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.channels)
        kernel = self.param("kernel", layers.msra, shape)
        if affine is not None:
            kernel = kernel * affine[0]
        y = deform_conv.deform_conv(
            x.astype(self.dtype),
            guide[..., : 2 * samples],
            kernel.astype(self.dtype),
            jax.nn.sigmoid(guide[..., 2 * samples :]) if modulated else None,
            stride=self.stride,
            padding=(self.kernel - 1) // 2,
        )
        return y if affine is None else y + affine[1].astype(self.dtype)
