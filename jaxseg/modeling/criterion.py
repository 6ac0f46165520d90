"""The criterion seam: what classifiers and box regressors learn from which candidates, and how losses add up.

A criterion has two tasks of one form, `rpn` (anchors) and `roi` (proposals), and
  total(terms, masks, step) -> (scalar, log)
A task has
  num_logits(K)                      channels of its classifier
  coder                              box coder weights
  max_positives                      slots an image that hold positives of which masks are learned
  select(key, boxes, valid, targets) -> Selection     which candidates count, and what they should become
  loss(logits, deltas, selection)    -> Terms
  scores(logits)                     -> probabilities of the K classes

Here is what criteria share; `sampled_softmax` is that of Mask R-CNN, `rank_sort` that of Rank & Sort and BRefine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxseg import precision
from jaxseg.ops import boxes as boxes_lib
from jaxseg.ops import matching, shards
from jaxseg.structures import RoIs, Targets


@flax.struct.dataclass
class Selection:
    """S candidates of each image (or of one).

    Positives of which masks are learned come first, in the task's `max_positives` slots. `index` points into the
    candidates; `classes` is K for background and -1 where the slot does not count; `matched` points into the targets
    and `gt_boxes` holds those boxes (both mean something for positives only).
    """

    rois: RoIs
    index: Int[Array, "*B S"]
    classes: Int[Array, "*B S"]
    positive: Bool[Array, "*B S"]
    matched: Int[Array, "*B S"]
    gt_boxes: Float[Array, "*B S 4"]


@flax.struct.dataclass
class Balance:
    """How losses of RoIs become one number: here, means over the global batch that count as they are.

    Another criterion may average within groups of images and scale what comes out; every method has that form.
    """

    def mean(self, values: Float[Array, "B R"], weights: Float[Array, "B R"]) -> Array:
        """sum(w v) / sum(w); 0 where no weight is. A scalar, or one for each group of images."""
        total = jnp.where(weights > 0, values * weights, 0.0).sum()
        return total / jnp.maximum(weights.sum(), 1e-6)

    def balanced(self, loss: Array) -> Array:
        """What such a mean adds to the total, as many numbers."""
        return loss

    def over_groups(self, values: Array) -> Float[Array, ""]:
        """The scalar of such numbers."""
        return values


@flax.struct.dataclass
class Terms:
    """A task's result: its losses by name, how much each slot's mask counts, and numbers worth logging.

    `balance` is what mask losses that go with it are averaged and scaled by.
    """

    losses: Mapping[str, Float[Array, ""]]
    mask_weights: Float[Array, "B S"]
    log: Mapping[str, Float[Array, ""]]
    balance: Balance = Balance()


@flax.struct.dataclass
class MaskTerms:
    """A mask head's losses by name, means as its `balance` takes them."""

    losses: Mapping[str, Array]
    balance: Balance = Balance()


@dataclasses.dataclass(frozen=True)
class MatchingTask:
    """Matching of candidates and objects by IoU; see field names in configs/common."""

    positive_iou: float
    negative_iou: float
    low_quality: str
    low_quality_iou: float
    coder: Sequence[float]
    crowd_iof: float

    def at(self, iou: float, coder: Sequence[float] | None = None) -> MatchingTask:
        """The same task for a later stage: `iou` makes a candidate positive, and an object's best one needs it too."""
        return dataclasses.replace(
            self,
            positive_iou=iou,
            negative_iou=iou,
            low_quality_iou=max(iou, self.low_quality_iou),
            coder=coder or self.coder,
        )

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
            label, matched = self.match(boxes, stats, targets)
            return self.selection(
                num_classes,
                targets,
                RoIs(boxes, valid, label != matching.IGNORED),
                jnp.arange(len(boxes), dtype=jnp.int32),
                label == matching.POSITIVE,
                matched,
            )

        boxes = jax.lax.stop_gradient(rois.boxes)
        return shards.per_shard(jax.vmap(image))(boxes, rois.valid, rois.stats, targets)

    def match(self, boxes, valid, targets: Targets) -> tuple[Array, Array]:
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
    def selection(
        num_classes: int, targets: Targets, rois: RoIs, index, positive, matched
    ) -> Selection:
        """Of candidates of an image: `index`, which they are; `matched`, the object of each."""
        classes = jnp.where(positive, targets.classes[matched], num_classes)
        classes = jnp.where(rois.stats, classes, -1)
        return Selection(rois, index, classes, positive, matched, targets.boxes[matched])


def matching_fields(config, part) -> dict[str, Any]:
    """The fields of a `MatchingTask` of `config.model.criterion`, `part` being its `rpn` or `roi`."""
    return {
        "positive_iou": part.positive_iou,
        "negative_iou": part.get("negative_iou", part.positive_iou),
        "low_quality": part.low_quality,
        "low_quality_iou": part.low_quality_iou,
        "coder": tuple(part.coder),
        "crowd_iof": config.crowd_iof,
    }


def with_objects(proposals: RoIs, targets: Targets) -> tuple[Array, Array]:
    """(B, R + N, 4) boxes and (B, R + N) validity: proposals, then the ground-truth boxes themselves."""
    boxes = jnp.concatenate([proposals.boxes, targets.boxes.astype(proposals.boxes.dtype)], 1)
    return boxes, jnp.concatenate([proposals.valid, targets.valid], 1)


def image_keys(key: Key[Array, ""], images: Array) -> Key[Array, "B"]:
    """A key for each image. It depends on the image's place in the batch alone, not on the size of the batch."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(images.shape[0]))


def of_class(deltas: Float[Array, "B R G 4"], classes: Int[Array, "B R"]) -> Float[Array, "B R 4"]:
    """The deltas of each RoI's class; with one group (class-agnostic boxes) always those. -1 and K give any."""
    group = jnp.clip(classes, 0, deltas.shape[2] - 1)
    return jnp.take_along_axis(deltas, group[..., None, None], 2)[:, :, 0]


@dataclasses.dataclass(frozen=True)
class Criterion:
    """Two tasks, and a weighted sum of what they and mask heads lose.

    `weights` scales each loss by its name, and `mask_weight(step)` all those of masks. A loss of weight 0 is left out,
    and with all losses of a task what it logs, so that nothing of it is computed.
    """

    rpn: Any
    roi: Any
    weights: Mapping[str, float]
    mask_weight: Callable[[Array], Array] | None = None

    def total(
        self, terms: Sequence[Terms], masks: Sequence[MaskTerms], step: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The weighted sum, and every loss (unweighted) and log entry by name."""
        log: dict[str, Array] = {}
        total = 0.0
        for term in masks:
            total += self._of_masks(term)
            weighted = self._weighted(term.losses)
            log |= {name: term.balance.over_groups(term.losses[name]) for name in weighted}
        if self.mask_weight is not None:
            log["mask_weight"] = self.mask_weight(step)
            total *= log["mask_weight"]
        for term in terms:
            weighted = self._weighted(term.losses)
            total += sum(weighted.values())
            if weighted:
                log |= {name: term.losses[name] for name in weighted} | term.log
        return precision.at_least_float32(total), log

    def _of_masks(self, term: MaskTerms) -> Array | float:
        """A mask head's losses as its balance has them.

        What is balanced no longer depends on a factor of all losses: it is the weight of the first, and those of the
        others count in proportion to that.
        """
        weighted = self._weighted(term.losses)
        if not weighted:
            return 0.0
        weight = self.weights.get(next(iter(weighted)), 1.0)
        balanced = term.balance.balanced(sum(weighted.values()) / weight)
        return weight * term.balance.over_groups(balanced)

    def _weighted(self, losses: Mapping[str, Array]) -> dict[str, Array]:
        weights = {name: self.weights.get(name, 1.0) for name in losses}
        return {name: weights[name] * loss for name, loss in losses.items() if weights[name]}
