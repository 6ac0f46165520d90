"""Object masks as bit-packed crops of their boxes (made by `numpy.packbits(crops, axis=-1)`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped, UInt8

from jaxseg import precision


def unpack(packed: UInt8[Array, "*B S S/8"]) -> Float[Array, "*B S S"]:
    """Masks of 0.0 and 1.0 from their bits, the highest bit leftmost."""
    bits = (packed[..., None] >> jnp.arange(7, -1, -1, dtype=jnp.uint8)) & 1
    return bits.reshape(*packed.shape[:-1], 8 * packed.shape[-1]).astype(jnp.float32)


def sample_crops(
    packed: UInt8[Array, "N S S/8"],
    gt_boxes: Shaped[Array, "N 4"],
    index: Int[Array, "R"],
    rois: Shaped[Array, "R 4"],
    size: tuple[int, int],
) -> Float[Array, "R h w"]:
    """What each RoI sees of one object's mask: the mean of bilinear samples in each of its cells,
    in [0, 1].

    A crop lies over its object's box, with the centre of its first pixel half a pixel inside;
    beyond is 0. This is aligned RoIAlign with at least 2 x 2 samples a cell, more where cells are
    so coarse that samples would miss crop pixels. Values are multiples of 1/4096.
    No gradient flows. RoIs and boxes without extent or with NaN give finite values.

    Args:
      packed: crops of the objects' masks.
      gt_boxes: the boxes that the crops cover, in the frame of `rois`.
      index: the object of each RoI.
      rois: xyxy.
      size: (h, w) of the result.
    """
    crops = unpack(packed[index])
    boxes = precision.at_least_float32(jax.lax.stop_gradient(gt_boxes))[index]
    rois = precision.at_least_float32(jax.lax.stop_gradient(rois))
    side = crops.shape[-1]
    rows = _weights(rois[:, 1::2], boxes[:, 1::2], side, size[0])
    columns = _weights(rois[:, 0::2], boxes[:, 0::2], side, size[1])
    mean = jnp.einsum("rhy,ryx,rwx->rhw", rows, crops, columns, precision="highest")
    # Means of exactly 0.5 are common; without rounding, noise of the last bit would decide which
    # side of a threshold they fall on, and differently on another number of devices.
    return jnp.round(mean * 4096) / 4096


def _weights(
    roi: Float[Array, "R 2"], box: Float[Array, "R 2"], side: int, cells: int
) -> Float[Array, "R cells side"]:
    """How much each pixel of a crop counts in each cell of the RoI, along one axis, given both
    intervals (start, end).
    """
    samples = max(2, -(-side // (2 * cells)))  # a bilinear sample sees two pixels
    points = (jnp.arange(cells * samples) + 0.5) / (cells * samples)
    position = roi[:, :1] + points * (roi[:, 1:] - roi[:, :1])
    extent = box[:, 1:] - box[:, :1]
    pixel = (position - box[:, :1]) / jnp.where(extent > 0, extent, 1.0) * side - 0.5
    pixel = jnp.where(jnp.isfinite(pixel) & (extent > 0), pixel, -2.0)  # -2: outside of the crop
    weights = jnp.maximum(1.0 - jnp.abs(pixel[..., None] - jnp.arange(side)), 0.0)
    return weights.reshape(-1, cells, samples, side).mean(axis=2)


def boundary(masks: Shaped[Array, "*B h w"]) -> Float[Array, "*B h w"]:
    """1.0 at the pixels of a 0/1 mask that touch its outside, corners and the frame included, else 0.0.

    Where the Laplacian, 8 times the pixel minus its 8 neighbours (0 beyond the frame), is above 0.1 (BMask, Cheng et
    al. 2020).
    """
    masks = jnp.asarray(masks, jnp.float32)
    height, width = masks.shape[-2:]
    around = jnp.pad(masks, ((0, 0),) * (masks.ndim - 2) + ((1, 1), (1, 1)))
    nine = sum(around[..., y : y + height, x : x + width] for y in range(3) for x in range(3))
    return (9.0 * masks - nine > 0.1).astype(jnp.float32)


def intersection(a: Shaped[Array, "N h w"], b: Shaped[Array, "M h w"]) -> Float[Array, "N M"]:
    """Pixels that every mask of `a` shares with every mask of `b`; anything but 0 is foreground."""
    a, b = (jnp.reshape(x != 0, (x.shape[0], -1)).astype(jnp.float32) for x in (a, b))
    return jnp.matmul(a, b.T, precision="highest")


def iou(a: Shaped[Array, "N h w"], b: Shaped[Array, "M h w"]) -> Float[Array, "N M"]:
    """Intersection over union of every pair of masks; 0 where both are empty."""
    shared = intersection(a, b)
    union = _count(a)[:, None] + _count(b) - shared
    return shared / jnp.maximum(union, 1.0)


def iof(a: Shaped[Array, "N h w"], b: Shaped[Array, "M h w"]) -> Float[Array, "N M"]:
    """The part of every mask of `a` that lies on each mask of `b`; 0 for an empty mask."""
    return intersection(a, b) / jnp.maximum(_count(a), 1.0)[:, None]


def _count(masks: Shaped[Array, "N h w"]) -> Float[Array, "N"]:
    return jnp.count_nonzero(masks, axis=(1, 2)).astype(jnp.float32)
