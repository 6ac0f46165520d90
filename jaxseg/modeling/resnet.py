"""ResNet (He et al. 2016) as a pyramid of features: basic blocks for 10 to 34 layers, bottlenecks for 50 and 101."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.modeling import layers, norms

DEPTHS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    channels: int
    stride: int
    norm: Callable[..., nn.Module]
    dtype: jnp.dtype = jnp.float32
    stride_in_1x1: bool = False  # there is no 1x1 here; the field keeps the blocks interchangeable

    @nn.compact
    def __call__(self, x, *, mask, in_mask, train):
        del in_mask

        def unit(y, kernel, stride, index):
            y = layers.conv(
                self.channels,
                kernel,
                stride=stride,
                bias=False,
                dtype=self.dtype,
                name=f"conv{index}",
            )(y)
            return self.norm(name=f"norm{index}")(y, mask=mask, train=train)

        y = nn.relu(unit(x, 3, self.stride, 1))
        y = unit(y, 3, 1, 2)
        return nn.relu(y + _shortcut(self, x, y, mask, train))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1; the stride sits in the 3x3 (torchvision) or in the first 1x1 (MSRA, Detectron)."""

    channels: int
    stride: int
    norm: Callable[..., nn.Module]
    dtype: jnp.dtype = jnp.float32
    stride_in_1x1: bool = False

    @nn.compact
    def __call__(self, x, *, mask, in_mask, train):
        s1, s3 = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)

        def unit(y, channels, kernel, stride, index, cells):
            y = layers.conv(
                channels, kernel, stride=stride, bias=False, dtype=self.dtype, name=f"conv{index}"
            )(y)
            return self.norm(name=f"norm{index}")(y, mask=cells, train=train)

        y = nn.relu(unit(x, self.channels, 1, s1, 1, mask if s1 > 1 else in_mask))
        y = nn.relu(unit(y, self.channels, 3, s3, 2, mask))
        y = unit(y, self.channels * 4, 1, 1, 3, mask)
        return nn.relu(y + _shortcut(self, x, y, mask, train))


def _shortcut(block, x, y, mask, train):
    if x.shape == y.shape:
        return x
    x = layers.conv(
        y.shape[-1], 1, stride=block.stride, bias=False, dtype=block.dtype, name="shortcut_conv"
    )(x)
    return block.norm(name="shortcut_norm")(x, mask=mask, train=train)


class Stem(nn.Module):
    """7x7 stride 2, norm, ReLU, 3x3 max pool stride 2."""

    channels: int
    norm: Callable[..., nn.Module]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, mask, train):
        x = layers.conv(self.channels, 7, stride=2, bias=False, dtype=self.dtype, name="conv")(x)
        x = nn.relu(self.norm(name="norm")(x, mask=mask, train=train))
        return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


class Stage(nn.Module):
    """Blocks at one resolution; the first one changes it."""

    blocks: int
    block: Callable[..., nn.Module]
    stride: int

    @nn.compact
    def __call__(self, x, *, mask, in_mask, train):
        for index in range(self.blocks):
            stride = self.stride if index == 0 else 1
            block = self.block(stride=stride, name=f"block{index}")
            x = block(x, mask=mask, in_mask=in_mask if index == 0 else mask, train=train)
        return x


class ResNet(nn.Module):
    """C2..C5 of a ResNet, strides 4, 8, 16, 32.

    Attributes:
      depth: a key of DEPTHS.
      width: channels of the stem and of stage 1's 3x3 convolutions; 64 in the paper.
      norm: builds a norm module from a name.
      stride_in_1x1: where a bottleneck strides.
      dtype: of the computation; parameters are float32.
    """

    depth: int
    width: int = 64
    norm: Callable[..., nn.Module] = norms.FrozenBatchNorm
    stride_in_1x1: bool = False
    dtype: jnp.dtype = jnp.float32

    strides = (4, 8, 16, 32)

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], image_size: Float[Array, "B 2"], *, train: bool
    ) -> tuple[Array, ...]:
        """images: normalised, zero outside of image_size (height, width). Returns (B, H/s, W/s, C) a stride."""

        def cells(stride):
            height, width = (-(-n // stride) for n in images.shape[1:3])
            return layers.cells_of_image(image_size, height, width, stride)

        block = Bottleneck if self.depth >= 50 else BasicBlock
        x = Stem(self.width, self.norm, self.dtype, name="stem")(images, mask=cells(2), train=train)
        outputs = []
        for index, blocks in enumerate(DEPTHS[self.depth]):
            make = functools.partial(
                block,
                channels=self.width * 2**index,
                norm=self.norm,
                dtype=self.dtype,
                stride_in_1x1=self.stride_in_1x1,
            )
            stage = Stage(blocks, make, 1 if index == 0 else 2, name=f"stage{index + 1}")
            stride = self.strides[index]
            in_mask = cells(max(4, stride // 2))
            x = stage(x, mask=cells(stride), in_mask=in_mask, train=train)
            outputs.append(x)
        return tuple(outputs)
