"""Mask R-CNN's criterion: balanced random sampling, cross-entropy, L1, a weighted sum."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from jaxseg.losses import box as box_losses
from jaxseg.losses import classification
from jaxseg.modeling.criterion import (
    Criterion,
    MatchingTask,
    Selection,
    Terms,
    image_keys,
    matching_fields,
    of_class,
    with_objects,
)
from jaxseg.ops import boxes as boxes_lib
from jaxseg.ops import sampling, shards
from jaxseg.structures import RoIs, Targets


@dataclasses.dataclass(frozen=True)
class SampledTask(MatchingTask):
    """Balanced sampling, shared by the RPN and the box head; see field names in configs/common."""

    samples: int
    positive_fraction: float
    smooth_l1_beta: float

    @property
    def max_positives(self) -> int:
        return sampling.max_positives(self.samples, self.positive_fraction)

    def sample(
        self,
        key: Key[Array, ""],
        boxes: Float[Array, "B N 4"],
        valid: Bool[Array, "B N"],
        targets: Targets,
        num_classes: int,
    ) -> Selection:
        """Matches candidates with objects and draws `samples` of them an image."""
        boxes = jax.lax.stop_gradient(boxes)
        draw = jax.vmap(functools.partial(self._sample_image, num_classes))
        return shards.per_shard(draw)(image_keys(key, boxes), boxes, valid, targets)

    def _sample_image(self, num_classes: int, key, boxes, valid, targets: Targets) -> Selection:
        label, matched = self.match(boxes, valid, targets)
        drawn = sampling.sample(key, label, self.samples, self.positive_fraction)
        rois = RoIs(boxes[drawn.index], drawn.valid, drawn.valid)
        matched = matched[drawn.index]
        return self.selection(num_classes, targets, rois, drawn.index, drawn.positive, matched)

    def box_loss(self, deltas: Float[Array, "B S 4"], selection: Selection) -> Float[Array, "B S"]:
        """L1 (or smooth L1) between predicted and wanted deltas, summed over the four; 0 for negatives."""
        wanted = boxes_lib.encode(selection.gt_boxes, selection.rois.boxes, self.coder)
        where = selection.positive[..., None]
        return box_losses.smooth_l1(deltas, wanted, self.smooth_l1_beta, where=where).sum(-1)


@dataclasses.dataclass(frozen=True)
class SampledRPN(SampledTask):
    """Objectness by binary cross-entropy; both losses are sums over samples, divided by a number of samples.

    `average` says which: "slots": samples an image x images, as in Detectron2; "sampled": those that were found, as in
    torchvision and MMDetection. They differ only where an image has fewer candidates than samples.
    """

    average: str = "slots"

    def num_logits(self, num_classes: int) -> int:
        return 1

    def select(self, key, anchors, valid, targets: Targets) -> Selection:
        """anchors: (B, A, 4); valid: (B, A), anchors centred on the image of a valid batch entry."""
        return self.sample(key, anchors, valid, targets, num_classes=1)

    def loss(self, logits: Float[Array, "B A"], deltas, selection: Selection) -> Terms:
        logits = jnp.take_along_axis(logits, selection.index, 1)
        deltas = jnp.take_along_axis(deltas, selection.index[..., None], 1)
        counted = selection.rois.stats
        error = classification.binary_cross_entropy(logits, selection.positive, where=counted)
        images = counted.any(1).sum()
        if self.average == "slots":
            scale = 1.0 / (self.samples * jnp.maximum(images, 1))
        else:
            scale = 1.0 / jnp.maximum(counted.sum(), 1)
        losses = {
            "rpn_objectness": error.sum() * scale,
            "rpn_box": self.box_loss(deltas, selection).sum() * scale,
        }
        log = {"rpn_positives": selection.positive.sum() / jnp.maximum(images, 1)}
        return Terms(losses, selection.positive.astype(error.dtype), log)

    def scores(self, logits):
        return jax.nn.sigmoid(logits)


class SampledSoftmax(SampledTask):
    """Softmax over K classes and background (the last); both losses are means over all sampled RoIs of the batch."""

    def num_logits(self, num_classes: int) -> int:
        return num_classes + 1

    def select(self, key, proposals: RoIs, targets: Targets, num_classes: int) -> Selection:
        """Samples from the proposals and the ground-truth boxes themselves."""
        return self.sample(key, *with_objects(proposals, targets), targets, num_classes)

    def loss(
        self, logits: Float[Array, "B S L"], deltas: Float[Array, "B S G 4"], selection: Selection
    ) -> Terms:
        counted = selection.rois.stats
        total = jnp.maximum(counted.sum(), 1)
        error = classification.softmax_cross_entropy(logits, selection.classes, where=counted)
        own = of_class(deltas, selection.classes)
        losses = {
            "classification": error.sum() / total,
            "box": self.box_loss(own, selection).sum() / total,
        }
        positive = selection.positive
        right = (logits.argmax(-1) == selection.classes) & positive
        count = jnp.maximum(positive.sum(), 1)
        images = jnp.maximum(counted.any(1).sum(), 1)
        log = {"roi_positives": positive.sum() / images, "roi_accuracy": right.sum() / count}
        return Terms(losses, positive.astype(error.dtype), log)

    def scores(self, logits: Float[Array, "B R L"]) -> Float[Array, "B R K"]:
        return jax.nn.softmax(logits, axis=-1)[..., :-1]


def softmax(model) -> Criterion:
    """Builds the criterion from `model.criterion`."""
    config = model.criterion

    def fields(part):
        own = ("samples", "positive_fraction", "smooth_l1_beta")
        return matching_fields(config, part) | {name: part[name] for name in own}

    return Criterion(
        SampledRPN(**fields(config.rpn), average=config.rpn.average),
        SampledSoftmax(**fields(config.roi)),
        dict(config.weights),
    )
