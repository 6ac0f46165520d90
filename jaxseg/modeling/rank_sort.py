"""The criterion of Rank & Sort (Oksuz et al. 2021) and BRefine: no sampling, ranking losses, everything else balanced.

The RPN and the box head rank all their candidates, those of `group` images together, and learn boxes by GIoU, each
weighted by its score (BRefine, eq. 6). What is learned beside a ranking is multiplied by lambda_k = L_RS / L_k, which
has no gradient (eq. 5): so it counts as much as the ranking that it goes with, whatever its unit. Masks go with the
ranking of the box head that found them.

A group of images is what one device sees in the papers. Here it is a number of its own, so that losses do not depend
on the number of devices.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from jaxseg.losses import box as box_losses
from jaxseg.losses.rank_sort import rank_sort as rank_sort_loss
from jaxseg.modeling.criterion import (
    Balance,
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
from jaxseg.ops import shards
from jaxseg.structures import RoIs, Targets

_EPSILON = 1e-10
_LEAST_IOU = 1e-4  # of a positive, whose prediction may miss its object


@flax.struct.dataclass
class Group(Balance):
    """Means within each of G groups of images, runs of the batch.

    Attributes:
      exists: groups with a candidate; the others are images that only fill up the batch.
      positive: groups with a positive.
    """

    exists: Bool[Array, "G"]
    positive: Bool[Array, "G"]

    def mean(self, values: Float[Array, "B R"], weights: Float[Array, "B R"]) -> Float[Array, "G"]:
        """sum(w v) / sum(w) in each group; 0 where no weight is."""
        groups = len(self.exists)
        total = jnp.where(weights > 0, values * weights, 0.0).reshape(groups, -1).sum(1)
        weight = weights.reshape(groups, -1).sum(1)
        return total / jnp.where(weight > _EPSILON, weight, 1.0)

    def balanced(self, loss: Float[Array, "G"]) -> Float[Array, "G"]:
        """0 where nothing is positive, and has been learned."""
        return jnp.where(self.positive, loss, 0.0)

    def over_groups(self, values: Float[Array, "G"]) -> Float[Array, ""]:
        count = jnp.maximum(self.exists.sum(), 1)
        return jnp.where(self.exists, values, 0.0).sum() / count


@flax.struct.dataclass
class Ranking(Group):
    """`Group`, in which other losses are balanced against that of a ranking.

    Attributes:
      loss: ranking + sorting of each group, L_RS.
    """

    loss: Float[Array, "G"]

    def balanced(self, loss: Float[Array, "G"]) -> Float[Array, "G"]:
        """lambda_k L_k (eq. 5), whose value is L_RS."""
        factor = jax.lax.stop_gradient(self.loss / jnp.maximum(loss, _EPSILON))
        return super().balanced(factor * loss)


@dataclasses.dataclass(frozen=True)
class RankSortTask(MatchingTask):
    """What both tasks share; see `criterion.rank_sort` in configs/common.

    Attributes:
      clip_lower: see `ops.boxes.decode`.
      balance_masks: whether mask losses are balanced against the ranking, or count as they are.
    """

    group: int
    delta: float
    max_positives: int
    balance_masks: bool
    clip_lower: bool

    def boxes(
        self, deltas: Float[Array, "B S 4"], selection: Selection
    ) -> tuple[Float[Array, "B S"], Float[Array, "B S"]]:
        """(IoU with its object, no gradient; GIoU loss) of each positive's box; anything and 0 elsewhere.

        The paper's code takes the RPN's in units of an anchor: both are the same in pixels.
        """
        start = jax.lax.stop_gradient(selection.rois.boxes)
        decoded = boxes_lib.decode(deltas, start, self.coder, clip_lower=self.clip_lower)
        loss = box_losses.giou(decoded, selection.gt_boxes, where=selection.positive)
        iou = boxes_lib.paired_iou(decoded, selection.gt_boxes)
        return jax.lax.stop_gradient(jnp.maximum(iou, _LEAST_IOU)), loss

    def terms(
        self,
        prefix: str,
        names: tuple[str, str],
        logits: Float[Array, "B *N"],
        positive: Bool[Array, "B *N"],
        valid: Bool[Array, "B *N"],
        iou: Float[Array, "B *N"],
        box_loss: Float[Array, "B S"],
        weights: Float[Array, "B S"],
    ) -> Terms:
        """Losses `names`: ranking + sorting of all candidates, and the balanced box loss."""
        logits, positive, valid, iou = (self._grouped(x) for x in (logits, positive, valid, iou))
        loss = functools.partial(rank_sort_loss, delta=self.delta)
        # One group after the other: together, each would take as many tiles as the largest.
        each = lambda *arrays: jax.lax.map(lambda group: loss(*group), arrays)  # noqa: E731
        ranking, sorting = shards.per_shard(each)(logits, iou, positive, valid)
        groups = valid.any(1), (positive & valid).any(1)
        ranked = Ranking(*groups, ranking + sorting)
        giou = ranked.mean(box_loss, weights)
        # Without a positive the paper's code gives 1, as for the rankings.
        balanced = jnp.where(ranked.positive, ranked.balanced(giou), 1.0)
        values = {"ranking": ranking, "sorting": sorting, "giou": giou}
        return Terms(
            {names[0]: ranked.over_groups(ranked.loss), names[1]: ranked.over_groups(balanced)},
            weights,
            {prefix + name: ranked.over_groups(value) for name, value in values.items()},
            ranked if self.balance_masks else Group(*groups),
        )

    def _grouped(self, x: Array) -> Array:
        images = min(self.group, x.shape[0])
        if x.shape[0] % images:
            raise ValueError(
                f"config.model.criterion.rank_sort.group={self.group} images are ranked together, which does not "
                f"divide the {x.shape[0]} of a step."
            )
        return x.reshape(x.shape[0] // images, -1)


class RankSortRPN(RankSortTask):
    """Ranks all anchors."""

    def num_logits(self, num_classes: int) -> int:
        return 1

    def select(self, key, anchors, valid, targets: Targets) -> Selection:
        """anchors: (B, A, 4); valid: (B, A), anchors centred on the image of a valid batch entry. All are selected."""
        del key
        return self.relabel(RoIs(anchors, valid, valid), targets, num_classes=1)

    def loss(self, logits: Float[Array, "B A"], deltas, selection: Selection) -> Terms:
        counted, positive = selection.rois.stats, selection.positive
        iou, box_loss = self.boxes(deltas, selection)
        weights = jnp.where(positive, jax.lax.stop_gradient(jax.nn.sigmoid(logits)), 0.0)
        names = ("rpn_objectness", "rpn_box")
        terms = self.terms("rpn_", names, logits, positive, counted, iou, box_loss, weights)
        images = jnp.maximum(counted.any(1).sum(), 1)
        return terms.replace(log=terms.log | {"rpn_positives": positive.sum() / images})

    def scores(self, logits):
        return jax.nn.sigmoid(logits)


class RankSortRoI(RankSortTask):
    """Ranks all (RoI, class) pairs: K sigmoids, none for background."""

    def num_logits(self, num_classes: int) -> int:
        return num_classes

    def select(
        self, key: Key[Array, ""], proposals: RoIs, targets: Targets, num_classes: int
    ) -> Selection:
        """All proposals and the ground-truth boxes themselves; positives first, in random order."""
        boxes, valid = with_objects(proposals, targets)
        selection = self.relabel(RoIs(boxes, valid, valid), targets, num_classes)

        def shuffled(key, selection):
            turn = jax.random.uniform(key, selection.positive.shape)
            order = jnp.argsort(jnp.where(selection.positive, turn, 1.0), stable=True)
            return jax.tree.map(lambda x: x[order], selection)

        return shards.per_shard(jax.vmap(shuffled))(image_keys(key, boxes), selection)

    def loss(
        self, logits: Float[Array, "B S K"], deltas: Float[Array, "B S G 4"], selection: Selection
    ) -> Terms:
        counted, positive = selection.rois.stats, selection.positive
        own = selection.classes[..., None] == jnp.arange(logits.shape[-1])
        iou, box_loss = self.boxes(of_class(deltas, selection.classes), selection)
        best = jax.nn.sigmoid(jax.lax.stop_gradient(logits)).max(-1)
        weights = jnp.where(positive, best, 0.0)
        names = ("classification", "box")
        spread = (jnp.broadcast_to(x[..., None], logits.shape) for x in (counted, iou))
        terms = self.terms("", names, logits, own & positive[..., None], *spread, box_loss, weights)
        images = jnp.maximum(counted.any(1).sum(), 1)
        right = (logits.argmax(-1) == selection.classes) & positive
        log = {
            "roi_positives": positive.sum() / images,
            "roi_accuracy": right.sum() / jnp.maximum(positive.sum(), 1),
        }
        return terms.replace(log=terms.log | log)

    def scores(self, logits: Float[Array, "B R K"]) -> Float[Array, "B R K"]:
        return jax.nn.sigmoid(logits)


def rank_sort(model) -> Criterion:
    """Builds the criterion from `model.criterion`."""
    config = model.criterion
    own = dict(config.rank_sort) | {"clip_lower": model.two_sided_clamp}
    return Criterion(
        RankSortRPN(**matching_fields(config, config.rpn), **own),
        RankSortRoI(**matching_fields(config, config.roi), **own),
        dict(config.weights),
    )
