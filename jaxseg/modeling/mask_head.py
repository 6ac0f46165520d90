"""The mask head seam, and the FCN head of Mask R-CNN behind it (He et al. 2017, section 4).

A mask head is a linen module with
  head(pyramid, rois, classes, *, context=None, train) -> MaskOutputs
  head.losses(outputs, targets) -> {name: (B, R) loss of each RoI, not reduced}
  head.probabilities(outputs) -> (B, R, h, w), what is pasted; sows `maps`, all that could be shown beside it
It gets the pyramid and the boxes, not pooled features, because heads sample different things.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseg import precision
from jaxseg.losses import mask as mask_losses
from jaxseg.modeling import layers, norms
from jaxseg.ops import masks as masks_lib
from jaxseg.structures import MaskOutputs, Pyramid, RoIs, Targets


@flax.struct.dataclass
class MaskTargets:
    """Ground truth for the RoIs of a mask head, sampled at whatever size a loss asks for.

    `matched` (B, R) says which ground-truth object each of `boxes` (B, R, 4) is to segment.
    """

    targets: Targets
    matched: Int[Array, "B R"]
    boxes: Float[Array, "B R 4"]

    def soft_masks(self, size: int, boxes: Array | None = None) -> Float[Array, "B R S S"]:
        """The share of each cell that the object covers, on a size x size grid over `boxes` (default: the RoIs)."""
        boxes = self.boxes if boxes is None else boxes
        sample = jax.vmap(lambda m, g, i, b: masks_lib.sample_crops(m, g, i, b, (size, size)))
        return sample(self.targets.masks, self.targets.boxes, self.matched, boxes)

    def masks(self, size: int, boxes: Array | None = None) -> Float[Array, "B R S S"]:
        """0/1 targets: `soft_masks` at one half, as Detectron2 and MMDetection binarise bitmap masks."""
        return (self.soft_masks(size, boxes) >= 0.5).astype(jnp.float32)

    def eroded(self, size: int) -> Float[Array, "B R S S"]:
        """0/1: the objects without their inner edge.

        Raises:
          ValueError: the batch was made without `data.eroded_masks`.
        """
        if self.targets.eroded is None:
            raise ValueError("These targets have no eroded masks: set config.data.eroded_masks.")
        eroded = self.targets.replace(masks=self.targets.eroded)
        return dataclasses.replace(self, targets=eroded).masks(size)


class ClassConv(nn.Module):
    """A 1x1 convolution to K maps that computes only the wanted one: (B, R, h, w) logits, never K of them.

    With `classes=None` all K maps are given, on a last axis.
    """

    num_maps: int  # K, or 1 for class-agnostic masks
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B R h w C"], classes: Int[Array, "B R"] | None) -> Array:
        kernel = self.param("kernel", layers.normal(0.001), (x.shape[-1], self.num_maps))
        bias = self.param("bias", nn.initializers.zeros, (self.num_maps,))
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        if classes is None:
            return precision.at_least_float32(x @ kernel + bias)
        index = jnp.clip(
            classes, 0, self.num_maps - 1
        )  # padded and background RoIs: any map will do
        logits = jnp.einsum("brhwc,brc->brhw", x, kernel.T[index]) + bias[index][..., None, None]
        return precision.at_least_float32(logits)


MaskLoss = Callable[[Array, Array, MaskTargets], Array]


def cross_entropy(
    logits: Float[Array, "B R S S"], wanted: Float[Array, "B R S S"], targets: MaskTargets
) -> Float[Array, "B R"]:
    """Binary cross-entropy, the mean over each RoI's pixels."""
    del targets
    return mask_losses.binary_cross_entropy(logits, wanted)


# Names of maps in the order of pictures: probabilities first, the mask that is made of them last.
MAPS = ("P", "T", "edge", "B")


class FCNMaskHead(nn.Module):
    """`convs` 3x3 convolutions at 14x14, a 2x2 stride 2 deconvolution, and a 1x1 predictor a class.

    Attributes:
      num_maps: K, or 1 for class-agnostic masks.
      pool: RoIAlign on a pyramid.
      loss: (logits, what is wanted at their size, targets) -> (B, R); binary cross-entropy by default.
      soft_targets: learns the share of each cell that the object covers, as torchvision does, instead of 0 or 1.
      infer_map: which of its `maps` is the mask.

    Parts that a method may add, each the constructor of a module, None by default:
      image_context: (pyramid, size) -> (B, 1, size, size, C), added to what is pooled for every RoI.
      feature_refinement: (N, h, w, C) -> (N, h', w', C), between the convolutions and the deconvolution.
      upsample: False leaves out the deconvolution.
      logit_refinement: (B, R, h, w, K) logits of all maps, and which RoIs enter statistics -> logits of that shape.
      auxiliary_branch: (pooled, rois, classes) -> (B, R, h', w') logits of another branch, in training only: of the
        RoIs that `losses` is given, however many were looked at.
    """

    num_maps: int
    pool: Callable[..., Array]
    pool_size: int = 14
    channels: int = 256
    convs: int = 4
    norm: Callable[..., nn.Module] = norms.Identity
    loss: MaskLoss = cross_entropy
    soft_targets: bool = False
    infer_map: str = "P"
    image_context: Callable[..., nn.Module] | None = None
    feature_refinement: Callable[..., nn.Module] | None = None
    upsample: bool = True
    logit_refinement: Callable[..., nn.Module] | None = None
    auxiliary_branch: Callable[..., nn.Module] | None = None
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        if self.auxiliary_branch is not None:
            self.auxiliary = self.auxiliary_branch()

    @nn.compact
    def __call__(
        self,
        pyramid: Pyramid,
        rois: RoIs,
        classes: Int[Array, "B R"] | None,
        *,
        context: Float[Array, "B #R h w C"] | None = None,
        train: bool,
    ) -> MaskOutputs:
        """Logits at twice the pooled size. `context` is added to the pooled features."""
        x = self._pooled(pyramid, rois, context)
        features = self._trunk(x, rois, train)
        logits = self._logits(self._refined(features), rois, classes, train)
        return MaskOutputs(logits, features, self._for_auxiliary(x, rois, classes, train))

    def _pooled(self, pyramid: Pyramid, rois: RoIs, context: Array | None) -> Array:
        x = self.pool(pyramid, rois.boxes, self.pool_size)
        if context is not None:
            x = x + context
        if self.image_context is not None:
            x = x + self.image_context(name="image_context")(pyramid, self.pool_size)
        return x

    def _trunk(self, x: Array, rois: RoIs, train: bool) -> Array:
        return layers.roi_convolutions(
            x,
            rois.stats,
            count=self.convs,
            channels=self.channels,
            norm=self.norm,
            train=train,
            dtype=self.dtype,
        )

    def _refined(self, x: Array) -> Array:
        if self.feature_refinement is None:
            return x
        return layers.of_rois(self.feature_refinement(name="feature_refinement"), x)

    def _logits(self, x: Array, rois: RoIs, classes: Array | None, train: bool) -> Array:
        """Of features on the main line."""
        if self.upsample:
            x = layers.roi_deconvolution(x, self.channels, dtype=self.dtype, name="deconv")
        predictor = ClassConv(self.num_maps, self.dtype, name="predictor")
        if self.logit_refinement is None:
            return predictor(x, classes)
        refine = self.logit_refinement(name="logit_refinement")
        logits = refine(predictor(x, None), rois.stats, train=train)
        return logits if classes is None else _of_class(logits, classes)

    def _for_auxiliary(self, x: Array, rois: RoIs, classes: Array | None, train: bool) -> dict:
        if self.auxiliary_branch is None or not train:
            return {}
        return {"pooled": x, "rois": rois, "classes": classes}

    def losses(self, outputs: MaskOutputs, targets: MaskTargets) -> dict[str, Float[Array, "B R"]]:
        """`loss` of the logits; that of the auxiliary branch is `mask_auxiliary`."""
        losses = {"mask": self._loss(outputs.logits, targets)}
        if "pooled" in outputs.extra:
            seen = (outputs.extra[name] for name in ("pooled", "rois", "classes"))
            losses["mask_auxiliary"] = self._loss(self.auxiliary(*seen, train=True), targets)
        return losses

    def _loss(self, logits: Float[Array, "B R S S"], targets: MaskTargets) -> Float[Array, "B R"]:
        return self.loss(logits, self._wanted(targets, logits.shape[-1]), targets)

    def _wanted(self, targets: MaskTargets, size: int) -> Float[Array, "B R S S"]:
        return targets.soft_masks(size) if self.soft_targets else targets.masks(size)

    def probabilities(self, outputs: MaskOutputs) -> Float[Array, "B R h w"]:
        """One of `maps`. All of them can be had as the intermediates `maps` of this module."""
        maps = self.maps(outputs)
        self.sow("intermediates", "maps", maps)
        return maps[self.infer_map]

    def maps(self, outputs: MaskOutputs) -> dict[str, Array]:
        """What the head says of each pixel, by name, in [0, 1]; all of one size."""
        return {"P": jax.nn.sigmoid(outputs.logits)}


def _of_class(maps: Float[Array, "B R h w K"], classes: Int[Array, "B R"]) -> Array:
    """The map of each RoI's class; padded and background RoIs: any will do."""
    index = jnp.clip(classes, 0, maps.shape[-1] - 1)[..., None, None, None]
    return jnp.take_along_axis(maps, index, -1)[..., 0]


def maps_of(intermediates: Mapping[str, Any], call: int = -1) -> dict[str, Float[Array, "B D h w"]]:
    """The maps of detections out of what the mask heads of a topology sowed: means where there are several heads.

    Of those that refine others (`refine_...`) if there are any. `call`: which one of the calls of those heads.
    """
    sown = {name: v["maps"] for name, v in intermediates.items() if "maps" in v}
    last = [maps for name, maps in sown.items() if name.startswith("refine_")] or [*sown.values()]
    last = [maps[call] for maps in last]
    return {key: sum(maps[key] for maps in last) / len(last) for key in last[0]}
