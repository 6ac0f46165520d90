"""ResNet (He et al. 2016) as a pyramid of features: basic blocks for 10 to 34 layers, bottlenecks for 50 and 101.

Bottlenecks may be grouped (ResNeXt, Xie et al. 2017) and their 3x3 convolutions deformable (Dai et al. 2017).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.modeling import deform_conv, layers, norms

DEPTHS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
}
BOTTLENECKS = (50, 101)  # the others are of basic blocks


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    channels: int
    stride: int
    norm: Callable[..., norms.Norm]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, mask, in_mask, train):
        del in_mask

        def unit(y, stride, index):
            conv = layers.Conv(
                self.channels,
                3,
                stride=stride,
                bias=False,
                dtype=self.dtype,
                name=f"conv{index}",
            )
            norm = self.norm(name=f"norm{index}")
            return layers.normed(conv, norm, y, mask=mask, train=train)

        y = nn.relu(unit(x, self.stride, 1))
        y = unit(y, 1, 2)
        return nn.relu(y + _shortcut(self, x, y, mask, train))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1; the stride sits in the 3x3 (torchvision) or in the first 1x1 (MSRA, Detectron).

    Attributes:
      channels: a quarter of the output's.
      inner: channels of the 3x3; as many as `channels` but in ResNeXt.
      deform: "none", or the version of the deformable convolution that the 3x3 is.
    """

    channels: int
    stride: int
    norm: Callable[..., norms.Norm]
    inner: int
    groups: int = 1
    deform: str = "none"
    deform_groups: int = 1
    stride_in_1x1: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, mask, in_mask, train):
        s1, s3 = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        conv1x1 = functools.partial(layers.Conv, kernel=1, bias=False, dtype=self.dtype)

        def unit(y, conv, index, cells):
            norm = self.norm(name=f"norm{index}")
            return layers.normed(conv, norm, y, mask=cells, train=train)

        cells = mask if s1 > 1 else in_mask
        y = nn.relu(unit(x, conv1x1(self.inner, stride=s1, name="conv1"), 1, cells))
        y = nn.relu(unit(y, self._conv3x3(s3), 2, mask))
        y = unit(y, conv1x1(self.channels * 4, name="conv3"), 3, mask)
        return nn.relu(y + _shortcut(self, x, y, mask, train))

    def _conv3x3(self, stride: int) -> nn.Module:
        same = dict(stride=stride, groups=self.groups, dtype=self.dtype, name="conv2")
        if self.deform == "none":
            return layers.Conv(self.inner, 3, bias=False, **same)
        return deform_conv.DeformConv(
            self.inner, 3, version=self.deform, deform_groups=self.deform_groups, **same
        )


def _shortcut(block, x, y, mask, train):
    if x.shape == y.shape:
        return x
    conv = layers.Conv(
        y.shape[-1], 1, stride=block.stride, bias=False, dtype=block.dtype, name="shortcut_conv"
    )
    return layers.normed(conv, block.norm(name="shortcut_norm"), x, mask=mask, train=train)


class Stem(nn.Module):
    """7x7 stride 2, norm, ReLU, 3x3 max pool stride 2."""

    channels: int
    norm: Callable[..., norms.Norm]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, mask, train):
        conv = layers.Conv(self.channels, 7, stride=2, bias=False, dtype=self.dtype, name="conv")
        x = nn.relu(layers.normed(conv, self.norm(name="norm"), x, mask=mask, train=train))
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
      depth: a key of DEPTHS; from 50 on of bottlenecks, which the settings below are about.
      width: channels of the stem and of stage 1's 3x3 convolutions; 64 in the paper.
      norm: builds a norm module from a name.
      stride_in_1x1: where a bottleneck strides.
      groups, width_per_group: of the 3x3 convolutions; 32 and 8 make ResNeXt 32x8d (see `inner_width`).
      deform: "none" | "v1" | "v2": see `deform_conv.DeformConv`.
      deform_stages: where the 3x3 convolutions are deformable; stage 2 makes C3.
      deform_groups: parts of the channels with offsets of their own.
      dtype: of the computation; parameters are float32.
    """

    depth: int
    width: int = 64
    norm: Callable[..., norms.Norm] = norms.FrozenBatchNorm
    stride_in_1x1: bool = False
    groups: int = 1
    width_per_group: int = 64
    deform: str = "none"
    deform_stages: Sequence[int] = (2, 3, 4)
    deform_groups: int = 1
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

        x = Stem(self.width, self.norm, self.dtype, name="stem")(images, mask=cells(2), train=train)
        outputs = []
        for index, blocks in enumerate(DEPTHS[self.depth]):
            name = f"stage{index + 1}"
            stage = Stage(blocks, self._block(index + 1), 1 if index == 0 else 2, name=name)
            stride = self.strides[index]
            in_mask = cells(max(4, stride // 2))
            x = stage(x, mask=cells(stride), in_mask=in_mask, train=train)
            outputs.append(x)
        return tuple(outputs)

    def _block(self, stage: int) -> Callable[..., nn.Module]:
        channels = self.width * 2 ** (stage - 1)
        common = dict(channels=channels, norm=self.norm, dtype=self.dtype)
        if self.depth not in BOTTLENECKS:
            return functools.partial(BasicBlock, **common)
        return functools.partial(
            Bottleneck,
            inner=inner_width(channels, self.groups, self.width_per_group),
            groups=self.groups,
            deform=self.deform if stage in self.deform_stages else "none",
            deform_groups=self.deform_groups,
            stride_in_1x1=self.stride_in_1x1,
            **common,
        )


def inner_width(channels: int, groups: int, width_per_group: int) -> int:
    """Channels of the 3x3 in a bottleneck with 4 * `channels` out, as torchvision counts `width_per_group`: of stage 1
    of a network of width 64; ResNeXt-101-32x8d has 32 groups of 8 channels there, of 64 in stage 4.
    """
    return channels * width_per_group // 64 * groups
