"""The criterion seam: what classifiers and box regressors learn from which candidates, and how losses add up.

A criterion has two tasks of one form, `rpn` (anchors) and `roi` (proposals), and
  total(terms, mask_losses, step) -> (scalar, log)
A task has
  num_logits(K)                      channels of its classifier
  coder                              box coder weights
  select(key, boxes, valid, targets) -> Selection     which candidates count, and what they should become
  loss(logits, deltas, selection)    -> Terms
  scores(logits)                     -> probabilities of the K classes

Here is `softmax`, the criterion of Mask R-CNN: balanced random sampling, cross-entropy, L1, a weighted sum.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxseg import precision
from jaxseg.losses import box as box_losses
from jaxseg.losses import classification
from jaxseg.ops import boxes as boxes_lib
from jaxseg.ops import matching, sampling, shards
from jaxseg.structures import RoIs, Targets


@flax.struct.dataclass
class Selection:
    """S candidates of each image (or of one), positives first (within the task's `max_positives` slots).

    `index` points into the candidates; `classes` is K for background and -1 where the slot does not count; `matched`
    points into the targets and `gt_boxes` holds those boxes (both mean something for positives only).
    """

    rois: RoIs
    index: Int[Array, "*B S"]
    classes: Int[Array, "*B S"]
    positive: Bool[Array, "*B S"]
    matched: Int[Array, "*B S"]
    gt_boxes: Float[Array, "*B S 4"]


@flax.struct.dataclass
class Terms:
    """A task's result: its losses by name, how much each slot's mask counts, and numbers worth logging.

    `value` is what other losses are balanced against; None where nothing is.
    """

    losses: Mapping[str, Float[Array, ""]]
    mask_weights: Float[Array, "B S"]
    log: Mapping[str, Float[Array, ""]]
    value: Float[Array, ""] | None = None


@dataclasses.dataclass(frozen=True)
class SampledTask:
    """Matching by IoU and balanced sampling, shared by the RPN and the box head; see field names in configs/common."""

    positive_iou: float
    negative_iou: float
    low_quality: str
    low_quality_iou: float
    samples: int
    positive_fraction: float
    coder: Sequence[float]
    smooth_l1_beta: float
    crowd_iof: float

    @property
    def max_positives(self) -> int:
        return sampling.max_positives(self.samples, self.positive_fraction)

    def at(self, iou: float, coder: Sequence[float] | None = None) -> SampledTask:
        """The same task for a later stage: `iou` makes a candidate positive, and an object's best one needs it too."""
        return dataclasses.replace(
            self,
            positive_iou=iou,
            negative_iou=iou,
            low_quality_iou=max(iou, self.low_quality_iou),
            coder=coder or self.coder,
        )

    def sample(
        self,
        key: Key[Array, ""],
        boxes: Float[Array, "B N 4"],
        valid: Bool[Array, "B N"],
        targets: Targets,
        num_classes: int,
    ) -> Selection:
        """Matches candidates with objects and draws `samples` of them an image."""
        # An image's draw depends on its place in the batch alone, not on the size of the batch.
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(boxes.shape[0]))
        boxes = jax.lax.stop_gradient(boxes)
        draw = jax.vmap(functools.partial(self._sample_image, num_classes))
        return shards.per_shard(draw)(keys, boxes, valid, targets)

    def relabel(
        self,
        rois: RoIs,
        targets: Targets,
        num_classes: int,
    ) -> Selection:
        """The same candidates, which have moved, matched with objects again: nothing is drawn, no slot changes places.

        RoIs outside of `rois.stats` stay without a label. Positives may lie in any slot.
        """

        def image(boxes, valid, stats, targets):
            label, matched = self._match(boxes, stats, targets)
            return self._selection(
                num_classes,
                targets,
                RoIs(boxes, valid, label != matching.IGNORED),
                jnp.arange(len(boxes), dtype=jnp.int32),
                label == matching.POSITIVE,
                matched,
            )

        boxes = jax.lax.stop_gradient(rois.boxes)
        return shards.per_shard(jax.vmap(image))(boxes, rois.valid, rois.stats, targets)

    def _sample_image(self, num_classes: int, key, boxes, valid, targets: Targets) -> Selection:
        label, matched = self._match(boxes, valid, targets)
        drawn = sampling.sample(key, label, self.samples, self.positive_fraction)
        rois = RoIs(boxes[drawn.index], drawn.valid, drawn.valid)
        matched = matched[drawn.index]
        return self._selection(num_classes, targets, rois, drawn.index, drawn.positive, matched)

    def _match(self, boxes, valid, targets: Targets) -> tuple[Array, Array]:
        """The label (see `matching`) of each candidate of an image, and its object."""
        match = matching.match(
            boxes_lib.iou(targets.boxes, boxes),
            targets.valid,
            positive=self.positive_iou,
            negative=self.negative_iou,
            low_quality=self.low_quality,
            low_quality_iou=self.low_quality_iou,
            valid=valid,
        )
        label = matching.ignore_crowds(
            match.label, boxes, targets.crowd_boxes, targets.crowd_valid, self.crowd_iof
        )
        return jnp.where(valid, label, matching.IGNORED), match.index

    @staticmethod
    def _selection(num_classes: int, targets: Targets, rois: RoIs, index, positive, matched):
        classes = jnp.where(positive, targets.classes[matched], num_classes)
        classes = jnp.where(rois.stats, classes, -1)
        return Selection(rois, index, classes, positive, matched, targets.boxes[matched])

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


def of_class(deltas: Float[Array, "B R G 4"], classes: Int[Array, "B R"]) -> Float[Array, "B R 4"]:
    """The deltas of each RoI's class; with one group (class-agnostic boxes) always those. -1 and K give any."""
    group = jnp.clip(classes, 0, deltas.shape[2] - 1)
    return jnp.take_along_axis(deltas, group[..., None, None], 2)[:, :, 0]


class SampledSoftmax(SampledTask):
    """Softmax over K classes and background (the last); both losses are means over all sampled RoIs of the batch."""

    def num_logits(self, num_classes: int) -> int:
        return num_classes + 1

    def select(self, key, proposals: RoIs, targets: Targets, num_classes: int) -> Selection:
        """Samples from the proposals and the ground-truth boxes themselves."""
        boxes = jnp.concatenate([proposals.boxes, targets.boxes.astype(proposals.boxes.dtype)], 1)
        valid = jnp.concatenate([proposals.valid, targets.valid], 1)
        return self.sample(key, boxes, valid, targets, num_classes)

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


@dataclasses.dataclass(frozen=True)
class SoftmaxCriterion:
    """Mask R-CNN's criterion. `weights` scales each loss by its name, and `mask_weight(step)` all those of masks.

    A loss of weight 0 is left out, and with all losses of a task what it logs, so that nothing of it is computed.
    """

    rpn: SampledRPN
    roi: SampledSoftmax
    weights: Mapping[str, float]
    mask_weight: Callable[[Array], Array] | None = None

    def total(
        self, terms: Sequence[Terms], mask_losses: Mapping[str, Float[Array, ""]], step: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The weighted sum, and every loss (unweighted) and log entry by name."""
        losses = dict(mask_losses)
        for term in terms:
            losses |= term.losses
        losses = {name: loss for name, loss in losses.items() if self.weights.get(name, 1.0)}
        weighted = {name: self.weights.get(name, 1.0) * value for name, value in losses.items()}
        learning = [term for term in terms if not losses.keys().isdisjoint(term.losses)]
        log = {name: value for term in learning for name, value in term.log.items()}
        if self.mask_weight is not None:
            log["mask_weight"] = self.mask_weight(step)
            weighted |= {n: log["mask_weight"] * weighted[n] for n in mask_losses if n in weighted}
        return precision.at_least_float32(sum(weighted.values())), losses | log


def softmax(config) -> SoftmaxCriterion:
    """Builds the criterion from `config.model.criterion`."""
    rpn, roi = config.rpn, config.roi
    shared = {"crowd_iof": config.crowd_iof}
    return SoftmaxCriterion(
        SampledRPN(
            rpn.positive_iou,
            rpn.negative_iou,
            rpn.low_quality,
            rpn.low_quality_iou,
            rpn.samples,
            rpn.positive_fraction,
            tuple(rpn.coder),
            rpn.smooth_l1_beta,
            **shared,
            average=rpn.average,
        ),
        SampledSoftmax(
            roi.positive_iou,
            roi.positive_iou,
            roi.low_quality,
            roi.low_quality_iou,
            roi.samples,
            roi.positive_fraction,
            tuple(roi.coder),
            roi.smooth_l1_beta,
            **shared,
        ),
        dict(config.weights),
    )


CRITERIA = {"softmax": softmax}
