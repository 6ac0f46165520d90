"""The topology seam: how box and mask heads are wired between proposals and results.

A topology is a linen module with
  losses(pyramid, proposals, targets, key, *, train) -> (terms, masks), for the criterion's `total`
  candidates(pyramid, proposals) -> (scored boxes before suppression, whatever else `masks` can use again)
  masks(pyramid, found, seen=None) -> mask probabilities of scored boxes
  detect(pyramid, proposals) -> Detections: the two, with the suppression between them
Boxes that were found in one view of an image can have their masks in another (`methods/views`): `seen` is None there.
Here is the single topology of Mask R-CNN: one box head, then one mask head on what it found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxseg.modeling.criterion import Balance, MaskTerms, MatchingTask, Selection, Terms, of_class
from jaxseg.modeling.mask_head import MaskTargets
from jaxseg.ops import boxes as boxes_lib
from jaxseg.ops import nms as nms_lib
from jaxseg.ops import shards
from jaxseg.structures import Detections, Pyramid, RoIs, ScoredBoxes, Targets


@flax.struct.dataclass
class DetectionSettings:
    """How scored boxes become detections; see configs/common: `test`, and the model's `two_sided_clamp`."""

    score: float
    nms_iou: float
    max_detections: int
    candidates: int
    min_size: float = 0.0
    two_sided_clamp: bool = False


class Topology(nn.Module):
    """What all topologies do alike; each has `candidates`, `masks` and the settings `test`."""

    def detect(self, pyramid: Pyramid, proposals: RoIs) -> Detections:
        """Scored boxes, per-class suppression; then masks on the boxes that are left."""
        candidates, seen = self.candidates(pyramid, proposals)
        found = suppress(candidates, self.test)
        masks = self.masks(pyramid, found, seen)
        return Detections(found.boxes, found.scores, found.classes, found.valid, masks)


class SingleTopology(Topology):
    """Attributes: the heads, the criterion's task for RoIs, the number of classes, and the test settings."""

    box_head: nn.Module
    mask_head: nn.Module
    task: MatchingTask
    num_classes: int
    test: DetectionSettings

    def losses(
        self,
        pyramid: Pyramid,
        proposals: RoIs,
        targets: Targets,
        key: Key[Array, ""],
        *,
        train: bool,
    ) -> tuple[Sequence[Terms], Sequence[MaskTerms]]:
        """The terms of the box task and of the mask head."""
        selection = self.task.select(key, proposals, targets, self.num_classes)
        logits, deltas = self.box_head(pyramid, selection.rois, train=train)
        terms = self.task.loss(logits, deltas, selection)
        # Masks are learned of the first slots alone, where positives lie.
        first, weights = jax.tree.map(
            lambda x: x[:, : self.task.max_positives], (selection, terms.mask_weights)
        )
        masks = mask_terms(
            self.mask_head, pyramid, first, weights, terms.balance, targets, train=train
        )
        return (terms,), (masks,)

    def candidates(self, pyramid: Pyramid, proposals: RoIs) -> tuple[ScoredBoxes, None]:
        """The box head's scores and boxes."""
        logits, deltas = self.box_head(pyramid, proposals, train=False)
        scores, coder = self.task.scores(logits), self.task.coder
        return best_pairs(scores, deltas, proposals, pyramid.image_size, coder, self.test), None

    def masks(
        self, pyramid: Pyramid, found: ScoredBoxes, seen: None = None
    ) -> Float[Array, "B D h w"]:
        """The mask head's probabilities."""
        del seen
        rois = RoIs(found.boxes, found.valid, found.valid)
        outputs = self.mask_head(pyramid, rois, found.classes, train=False)
        return self.mask_head.probabilities(outputs)


def mask_terms(
    head: nn.Module,
    pyramid: Pyramid,
    foreground: Selection,
    weights: Float[Array, "B P"],
    balance: Balance,
    targets: Targets,
    *,
    train: bool,
) -> MaskTerms:
    """A mask head's losses on the positive RoIs of a selection."""
    positive = foreground.positive
    rois = RoIs(foreground.rois.boxes, foreground.rois.valid & positive, positive)
    outputs = head(pyramid, rois, foreground.classes, train=train)
    wanted = MaskTargets(targets, foreground.matched, rois.boxes)
    return averaged(head.losses(outputs, wanted), weights, balance)


def averaged(
    losses: Mapping[str, Float[Array, "B R"]], weights: Float[Array, "B R"], balance: Balance
) -> MaskTerms:
    """A mask head's losses of RoIs as means."""
    return MaskTerms({name: balance.mean(loss, weights) for name, loss in losses.items()}, balance)


def likeliest_class(logits: Float[Array, "B R L"], num_classes: int) -> Int[Array, "B R"]:
    """The one of the K classes with the highest logit, background (K) left out."""
    return logits[..., :num_classes].argmax(-1).astype(jnp.int32)


def moving_classes(
    selection: Selection, logits: Float[Array, "B S L"], num_classes: int
) -> Int[Array, "B S"]:
    """The class by which each sampled RoI moves on: its object's; background, which has none, as its likeliest one."""
    likeliest = likeliest_class(logits, num_classes)
    return jnp.where(selection.positive, selection.classes, likeliest)


def next_boxes(
    deltas: Float[Array, "B R G 4"],
    classes: Int[Array, "B R"],
    boxes: Float[Array, "B R 4"],
    image_size: Float[Array, "B 2"],
    coder: Sequence[float],
    *,
    two_sided_clamp: bool,
) -> Float[Array, "B R 4"]:
    """The boxes that another stage looks at: `deltas` of `classes`, decoded and clipped to the image, no gradient."""
    own = of_class(deltas, classes)
    decoded = boxes_lib.decode(own, boxes, coder, clip_lower=two_sided_clamp)
    return jax.lax.stop_gradient(boxes_lib.clip(decoded, image_size))


def first_slots(wanted: Bool[Array, "B S"], count: int) -> Int[Array, "B P"]:
    """The slots of the first `count` that are wanted, then of others."""
    return jnp.argsort(~wanted, axis=1, stable=True)[:, :count].astype(jnp.int32)


def take_slots(tree: Any, slots: Int[Array, "B P"]) -> Any:
    """The given slots of every (B, S, ...) array."""
    return jax.tree.map(lambda x: jax.vmap(lambda image, i: image[i])(x, slots), tree)


def best_pairs(
    scores: Float[Array, "B R K"],
    deltas: Float[Array, "B R G 4"],
    rois: RoIs,
    image_size: Float[Array, "B 2"],
    coder: Sequence[float],
    test: DetectionSettings,
) -> ScoredBoxes:
    """The best `test.candidates` pairs (RoI, class) above the score threshold, each with its own decoded box.

    Best first. G is K or 1 (class-agnostic boxes).
    """

    def image(scores, deltas, boxes, valid, size):
        num_classes = scores.shape[1]
        flat = jnp.where(valid[:, None] & (scores > test.score), scores, -jnp.inf).reshape(-1)
        best, pair = jax.lax.top_k(flat, min(test.candidates, flat.size))
        roi, label = pair // num_classes, (pair % num_classes).astype(jnp.int32)
        group = jnp.minimum(label, deltas.shape[1] - 1)
        decoded = boxes_lib.decode(
            deltas[roi, group], boxes[roi], coder, clip_lower=test.two_sided_clamp
        )
        decoded = boxes_lib.clip(decoded, size)
        sides = decoded[:, 2:] - decoded[:, :2]
        ok = jnp.isfinite(best) & (sides > test.min_size).all(-1)
        return ScoredBoxes(decoded, best, label, ok, roi, boxes[roi])

    per_image = shards.per_shard(jax.vmap(image))
    return per_image(scores, deltas, rois.boxes, rois.valid, image_size)


def suppress(candidates: ScoredBoxes, test: DetectionSettings) -> ScoredBoxes:
    """What per-class suppression leaves of each image's candidates, best first, in `test.max_detections` slots."""

    def image(candidates):
        index, kept = nms_lib.nms(
            candidates.boxes,
            candidates.scores,
            candidates.valid,
            iou_threshold=test.nms_iou,
            max_out=test.max_detections,
            groups=candidates.classes,
        )
        found = jax.tree.map(lambda x: x[index], candidates)
        return found.replace(scores=jnp.where(kept, found.scores, 0.0), valid=kept)

    return shards.per_shard(jax.vmap(image))(candidates)
