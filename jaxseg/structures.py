"""The arrays that travel between the parts: padded, static in shape, each with an explicit `valid`.

Letters: B images, N objects, R RoIs, D detections, K classes, H W C (NHWC). Boxes are xyxy, float32, in pixels of the
network input, in continuous coordinates (a pixel's centre is at +0.5, the right edge of an image is at its width).
Classes are 0..K-1, background is K, ignored is -1. What a padded entry holds is unspecified; nothing may depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
from jaxtyping import Array, Bool, Float, Float32, Int, UInt8


@flax.struct.dataclass
class Targets:
    """Ground truth of a batch. All fields may be NumPy (on the host) or jax arrays."""

    boxes: Float[Array, "B N 4"]
    classes: Int[Array, "B N"]
    valid: Bool[Array, "B N"]
    # Each object's mask, cropped to its box, resampled to S x S, bit-packed along the width (`numpy.packbits`).
    masks: UInt8[Array, "B N S S/8"]
    # Crowd regions are no targets; background candidates that lie on them are ignored.
    crowd_boxes: Float[Array, "B M 4"]
    crowd_valid: Bool[Array, "B M"]
    # The masks without their inner edge, in the same form; with `data.eroded_masks` alone.
    eroded: UInt8[Array, "B N S S/8"] | None = None


@flax.struct.dataclass
class Batch:
    """What a training or inference step takes. `image_size` is (height, width) without the padding right and below."""

    # RGB, 0..255, zero outside `image_size`; normalised on the device. Float where resizing does not round.
    images: UInt8[Array, "B H W 3"] | Float32[Array, "B H W 3"]
    image_size: Float[Array, "B 2"]
    valid: Bool[Array, "B"]  # False: an entry that only fills up the batch
    targets: Targets | None = None


@flax.struct.dataclass
class Views:
    """The same images seen several times, each time at its own size, mirrored or not; see `methods/views`.

    The first view gives the pixels that results are in. By how much a view is enlarged follows from its `image_size`.
    """

    batches: tuple[Batch, ...]
    flips: tuple[bool, ...] = flax.struct.field(pytree_node=False)  # left and right exchanged

    @property
    def image_size(self) -> Float[Array, "B 2"]:
        return self.batches[0].image_size

    @property
    def valid(self) -> Bool[Array, "B"]:
        return self.batches[0].valid


@flax.struct.dataclass
class Pyramid:
    """Feature levels, finest first, with their strides and the unpadded image sizes (height, width) in pixels."""

    levels: tuple[Float[Array, "B H W C"], ...]
    image_size: Float[Array, "B 2"]
    strides: tuple[int, ...] = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class RoIs:
    """Regions of interest. `stats` marks those that enter losses and norm statistics; it implies `valid`."""

    boxes: Float[Array, "B R 4"]
    valid: Bool[Array, "B R"]
    stats: Bool[Array, "B R"]


@flax.struct.dataclass
class MaskOutputs:
    """What a mask head returns. `logits` has the class axis (.., K) only when it was called with `classes=None`."""

    logits: Float[Array, "B R h w"] | Float[Array, "B R h w K"]
    features: Float[
        Array, "B R s s C"
    ]  # the main line after the trunk, as large as what was pooled
    extra: Mapping[str, Any] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class ScoredBoxes:
    """Boxes with a class and a score, before suppression or after it."""

    boxes: Float[Array, "B C 4"]
    scores: Float[Array, "B C"]
    classes: Int[Array, "B C"]
    valid: Bool[Array, "B C"]
    rois: Int[Array, "B C"]  # which RoI each was made of
    origins: Float[Array, "B C 4"]  # the boxes of those


@flax.struct.dataclass
class Detections:
    """Final instances, best first. `masks` are probabilities over each box; paste them with evaluation.results."""

    boxes: Float[Array, "B D 4"]
    scores: Float[Array, "B D"]
    classes: Int[Array, "B D"]
    valid: Bool[Array, "B D"]
    masks: Float[Array, "B D h w"]
    # All maps of the mask head by name, `masks` among them, where they were asked for (`training.step.make_detect`).
    maps: Mapping[str, Float[Array, "B D h w"]] = flax.struct.field(default_factory=dict)
