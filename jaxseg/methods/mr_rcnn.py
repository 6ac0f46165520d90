"""Mask Refining R-CNN (Ding, Qiao, Shen, Yuille 2019, arXiv 1911.11263v1): masks that guide boxes, and boxes masks.

A trained Mask R-CNN gives every RoI a box B, class logits S^b and a mask P on B. The refining module looks again:

  P, B          -> Shape-aware RoIAlign -> refine_box_head  -> S^r and B^r
  F^- (on B)    -> + RoIAlign on B^r    -> refine_mask_head -> P^r

What is found has the logits (S^b + alpha S^r) / (1 + alpha), the box B^r and the mask P^r. Everything but the RoI heads
is `mask_rcnn`, with whatever mask head and criterion the config asks for.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxseg.methods import mask_rcnn, settings
from jaxseg.modeling import layers
from jaxseg.modeling.criterion import MaskTerms, MatchingTask, Selection, Terms
from jaxseg.modeling.mask_head import MaskTargets
from jaxseg.modeling.roi_heads import (
    DetectionSettings,
    Topology,
    averaged,
    best_pairs,
    first_slots,
    likeliest_class,
    moving_classes,
    next_boxes,
    take_slots,
)
from jaxseg.ops import shards
from jaxseg.ops.roi_align import Pool
from jaxseg.structures import MaskOutputs, Pyramid, RoIs, ScoredBoxes, Targets

RULES = {
    "refine.align": settings.one_of("shape", "roi"),
    "refine.guidance": settings.one_of("mul", "one_plus", "normalised"),
    "refine.cls": settings.FLAG,
    "refine.reg": settings.FLAG,
    "refine.iou": settings.number(0.0, 1.0, above=True),
    "refine.relabel": settings.FLAG,
    "refine.pseudo_labels": settings.FLAG,
    "refine.mask_grad": settings.FLAG,
    "refine.info_flow": settings.one_of("B", "Br", "none"),
    "refine.flow_relu": settings.FLAG,
    "test.score_alpha": settings.number(0.0),
    "test.refine_topk": settings.whole(1),
}
PREFIX = "refine_"  # of the module's parameters and losses
COPIES = {  # how the parameters that a trained Mask R-CNN lacks start; see `methods.copies`
    "roi_heads/refine_box_head": "roi_heads/box_head",
    "roi_heads/refine_mask_head": "roi_heads/mask_head",
    "roi_heads/flow": "",
}


@dataclasses.dataclass(frozen=True)
class Switches:
    """The paper's ablations and what it leaves open; see `model.refine` in configs/common."""

    cls: bool
    reg: bool
    score_alpha: float
    topk: int
    relabel: bool
    pseudo_labels: bool
    mask_grad: bool
    info_flow: str


class RefiningTopology(Topology):
    """The heads of a Mask R-CNN and those that refine what they find.

    Attributes:
      box_head, mask_head: the trained Mask R-CNN's.
      refine_box_head, refine_mask_head: of the same kind, with parameters of their own.
      flow: turns a mask head's features into F^- (eq. 6); None without information flow.
      guided_pool: (pyramid, boxes, P, size) -> features for the refining box head; None: it pools as the box head.
      task, refine_task: the criterion's task for RoIs, and the same with the refining stage's IoU threshold.
      test: the test settings.
    """

    box_head: nn.Module
    mask_head: nn.Module
    refine_box_head: nn.Module
    refine_mask_head: nn.Module
    flow: nn.Module | None
    guided_pool: Callable[..., Array] | None
    task: MatchingTask
    refine_task: MatchingTask
    num_classes: int
    test: DetectionSettings
    switches: Switches

    def losses(
        self,
        pyramid: Pyramid,
        proposals: RoIs,
        targets: Targets,
        key: Key[Array, ""],
        *,
        train: bool,
    ) -> tuple[Sequence[Terms], Sequence[MaskTerms]]:
        """The terms of both box heads, and of both mask heads."""
        selection = self.task.select(key, proposals, targets, self.num_classes)
        logits, deltas = self.box_head(pyramid, selection.rois, train=train)
        terms = self.task.loss(logits, deltas, selection)

        # Background has no mask: its RoIs are guided by that of the class they look most like (pseudo labels).
        classes = moving_classes(selection, logits, self.num_classes)
        boxes = self._decode(deltas, classes, selection.rois.boxes, pyramid)
        rois = RoIs(boxes, selection.rois.valid, selection.positive)
        outputs = self.mask_head(pyramid, rois, classes, train=train)
        masks = self._first_mask_terms(outputs, selection, boxes, terms, targets)

        again = self._relabel(selection, boxes, targets)
        refined_logits, refined_deltas = self._refine(pyramid, again.rois, outputs, train)
        refined = self._refined_terms(logits, refined_logits, refined_deltas, again)
        refined_masks = self._refined_mask_terms(
            pyramid, again, outputs, refined_deltas, refined, targets, train
        )
        return (terms, refined), (masks, refined_masks)

    def candidates(
        self, pyramid: Pyramid, proposals: RoIs
    ) -> tuple[ScoredBoxes, Float[Array, "B R s s C"] | None]:
        """The box heads' fused scores on the refined boxes, and the first mask head's features on B if it was used."""
        logits, deltas = self.box_head(pyramid, proposals, train=False)
        scores = self.task.scores(logits)
        proposals, logits, deltas = _best(self.switches.topk, scores, (proposals, logits, deltas))
        classes = likeliest_class(logits, self.num_classes)
        boxes = self._decode(deltas, classes, proposals.boxes, pyramid)
        first = RoIs(boxes, proposals.valid, proposals.valid)
        outputs = None
        if self.guided_pool is not None:
            outputs = self.mask_head(pyramid, first, classes, train=False)

        refined_logits, refined_deltas = self._refine(pyramid, first, outputs, False)
        scores = self.task.scores(self._fuse(logits, refined_logits))
        size, coder = pyramid.image_size, self.task.coder
        found = best_pairs(scores, refined_deltas, first, size, coder, self.test)
        return found, None if outputs is None else outputs.features

    def masks(
        self,
        pyramid: Pyramid,
        found: ScoredBoxes,
        seen: Float[Array, "B R s s C"] | None = None,
    ) -> Float[Array, "B D h w"]:
        """The refined masks. `seen`: the features on every B; without them, those of what was found are computed."""

        def features():
            if seen is not None:
                return take_slots(seen, found.rois)
            first = RoIs(found.origins, found.valid, found.valid)
            return self.mask_head(pyramid, first, found.classes, train=False).features

        rois, classes = RoIs(found.boxes, found.valid, found.valid), found.classes
        context = self._context(pyramid, rois, classes, features)
        outputs = self.refine_mask_head(pyramid, rois, classes, context=context, train=False)
        return self.refine_mask_head.probabilities(outputs)

    def _decode(self, deltas, classes, boxes, pyramid: Pyramid) -> Float[Array, "B R 4"]:
        """The boxes that `deltas` give for `classes`, inside the image. No gradient, as in cascades."""
        clamp = self.test.two_sided_clamp
        return next_boxes(
            deltas, classes, boxes, pyramid.image_size, self.task.coder, two_sided_clamp=clamp
        )

    def _fuse(self, logits: Array, refined: Array) -> Array:
        """S = (S^b + alpha S^r) / (1 + alpha), on logits."""
        if not self.switches.cls:
            return logits
        alpha = self.switches.score_alpha
        return logits + alpha / (1.0 + alpha) * (refined - logits)

    def _refine(self, pyramid: Pyramid, rois: RoIs, outputs: MaskOutputs | None, train: bool):
        """S^r, and the deltas from B to B^r: all zero, of one group, if boxes are not refined."""
        pool = None
        if self.guided_pool is not None:
            guide = self.mask_head.probabilities(outputs)
            if not self.switches.mask_grad:
                guide = jax.lax.stop_gradient(guide)
            pool = functools.partial(_pool_by, self.guided_pool, guide)
        logits, deltas = self.refine_box_head(pyramid, rois, pool=pool, train=train)
        if not self.switches.reg:
            deltas = jnp.zeros((*deltas.shape[:2], 1, 4), deltas.dtype)
        return logits, deltas

    def _relabel(self, selection: Selection, boxes: Array, targets: Targets) -> Selection:
        """The sampled RoIs, now on B, as the refining stage learns from them."""
        counted = selection.rois.stats
        if not self.switches.pseudo_labels:
            # Background has no label of its own that says which mask is to guide it.
            counted = counted & selection.positive
        rois = RoIs(boxes, selection.rois.valid, counted)
        if self.switches.relabel:
            return self.refine_task.relabel(rois, targets, self.num_classes)
        # Nothing asks of B to lie on the object here: deltas from a box without extent would be without bound.
        counted = counted & ((boxes[..., 2:] - boxes[..., :2]) >= 1.0).all(-1)
        return selection.replace(
            rois=rois.replace(stats=counted),
            classes=jnp.where(counted, selection.classes, -1),
            positive=selection.positive & counted,
        )

    def _refined_terms(self, logits, refined_logits, refined_deltas, again: Selection) -> Terms:
        """The task's loss of the parts that there are."""
        if not self.switches.cls:
            refined_logits = jax.lax.stop_gradient(logits)
        terms = self.refine_task.loss(refined_logits, refined_deltas, again)
        wanted = {"classification": self.switches.cls, "box": self.switches.reg}
        losses = {k: v for k, v in terms.losses.items() if wanted.get(k, True)}
        log = {k: v for k, v in terms.log.items() if self.switches.cls or k != "roi_accuracy"}
        return terms.replace(losses=_prefixed(losses), log=_prefixed(log))

    def _first_mask_terms(self, outputs, selection: Selection, boxes, terms: Terms, targets):
        """The vanilla mask head's, on B. All positives lie in the first slots."""
        first = jax.tree.map(
            lambda x: x[:, : self.task.max_positives],
            (outputs, selection.matched, boxes, terms.mask_weights),
        )
        outputs, matched, boxes, weights = first
        losses = self.mask_head.losses(outputs, MaskTargets(targets, matched, boxes))
        return averaged(losses, weights, terms.balance)

    def _refined_mask_terms(
        self, pyramid, again: Selection, outputs, deltas, terms: Terms, targets, train: bool
    ):
        """The refining mask head's, on B^r of the foreground: of at most as many RoIs an image as were sampled."""
        slots = first_slots(again.positive, self.task.max_positives)
        picked, deltas, weights = take_slots((again, deltas, terms.mask_weights), slots)
        boxes = self._decode(deltas, picked.classes, picked.rois.boxes, pyramid)
        rois = RoIs(boxes, picked.rois.valid & picked.positive, picked.positive)
        features = lambda: take_slots(outputs.features, slots)  # noqa: E731
        context = self._context(pyramid, rois, picked.classes, features)
        refined = self.refine_mask_head(pyramid, rois, picked.classes, context=context, train=train)
        wanted = MaskTargets(targets, picked.matched, boxes)
        losses = _prefixed(self.refine_mask_head.losses(refined, wanted))
        return averaged(losses, weights, terms.balance)

    def _context(
        self,
        pyramid: Pyramid,
        rois: RoIs,
        classes: Array,
        features: Callable[[], Array],
    ) -> Float[Array, "B P h w C"] | None:
        """F^- of RoIs on B^r (eq. 6): from the `features` on their B as there, or from new ones on B^r as in HTC."""
        if self.flow is None:
            return None
        if self.switches.info_flow == "Br":
            # Its norms have had their statistics of this step.
            return self.flow(self.mask_head(pyramid, rois, classes, train=False).features)
        return self.flow(features())


class Flow(nn.Module):
    """F^- = Conv1x1 of a mask head's features, then ReLU (which the paper does not state; HTC has it)."""

    channels: int
    relu: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "B R h w C"]) -> Float[Array, "B R h w D"]:
        x = layers.Conv(self.channels, 1, dtype=self.dtype, name="conv")(features)
        return nn.relu(x) if self.relu else x


def _pool_by(guided_pool, guide, pyramid, boxes, size):
    return guided_pool(pyramid, boxes, guide, size)


def _one_plus(pool, pyramid, boxes, guide, size):
    """Features times (1 + mean of P in the bin), after pooling: the later Deeply Shape-guided Cascade's form."""
    return pool(pyramid, boxes, size) * (1.0 + _bins(guide, size))[..., None]


def _bins(guide: Float[Array, "B R h w"], size: int) -> Float[Array, "B R S S"]:
    *lead, height, width = guide.shape
    if height % size or width % size:
        raise ValueError(
            f"config.model.refine.guidance='one_plus' takes the mean of the mask in each bin: {size} x {size} bins "
            f"(model.box_head.pool) must divide the {height} x {width} mask."
        )
    return guide.reshape(*lead, size, height // size, size, width // size).mean((-3, -1))


def _normalised(pool: Pool, pyramid, boxes, guide, size):
    """The mean of the features in each bin, weighted by P."""
    ones = pyramid.replace(levels=tuple(jnp.ones_like(x[..., :1]) for x in pyramid.levels))
    # One channel is less than the kernels take.
    weight = dataclasses.replace(pool, implementation="xla").shape_aware(ones, boxes, guide, size)
    return pool.shape_aware(pyramid, boxes, guide, size) / jnp.maximum(weight, 1e-6)


def _prefixed(values: Mapping[str, Any]) -> dict[str, Any]:
    # A log entry `roi_positives` becomes `refine_positives`.
    return {PREFIX + name.removeprefix("roi_"): value for name, value in values.items()}


def _best(count: int, scores: Float[Array, "B R K"], tree: Any) -> Any:
    """What belongs to the `count` RoIs of each image with the highest score of any class."""
    rois = tree[0]
    if count >= rois.boxes.shape[1]:
        return tree

    def image(scores, valid, tree):
        _, index = jax.lax.top_k(jnp.where(valid, scores.max(-1), -jnp.inf), count)
        return jax.tree.map(lambda x: x[index], tree)

    return shards.per_shard(jax.vmap(image))(scores, rois.valid, tree)


def _check(model) -> None:
    refine, key = model.refine, "config.model.refine"
    if not refine.cls and not refine.reg:
        raise ValueError(
            f"{key}.cls=False and {key}.reg=False: the refining box head has nothing to do; leave one of them True."
        )
    shaped, flows = refine.align == "shape", refine.info_flow != "none"
    settings.check_used(
        key,
        refine,
        ("guidance", "mul", shaped, "align='roi'"),
        ("mask_grad", True, shaped, "align='roi'"),
        ("flow_relu", True, flows, "info_flow='none'"),
    )
    if not refine.cls and model.test.score_alpha != 1.0:
        raise ValueError(
            f"config.model.test.score_alpha={model.test.score_alpha!r} has no effect with {key}.cls=False; leave one "
            "of them at its default."
        )


def build(config) -> mask_rcnn.MaskRCNN:
    """Mask R-CNN of `config` with the refining topology, see `model.refine` in configs/common.

    Raises:
      ValueError: settings that contradict each other.
    """
    model, refine = config.model, config.model.refine
    _check(model)
    plain = mask_rcnn.build(config)
    heads = plain.roi_heads
    box, mask = heads.box_head, heads.mask_head
    pools = {
        "mul": box.pool.shape_aware,
        "one_plus": functools.partial(_one_plus, box.pool),
        "normalised": functools.partial(_normalised, box.pool),
    }
    flow = None
    if refine.info_flow != "none":
        flow = Flow(model.fpn.channels, refine.flow_relu, plain.dtype)
    return plain.clone(
        roi_heads=RefiningTopology(
            box_head=box,
            mask_head=mask,
            refine_box_head=box.clone(
                num_logits=box.num_logits if refine.cls else 0,
                num_boxes=box.num_boxes if refine.reg else 0,
            ),
            refine_mask_head=mask.clone(),
            flow=flow,
            guided_pool=pools[refine.guidance] if refine.align == "shape" else None,
            task=heads.task,
            refine_task=heads.task.at(refine.iou),
            num_classes=heads.num_classes,
            test=heads.test,
            switches=Switches(
                cls=refine.cls,
                reg=refine.reg,
                score_alpha=model.test.score_alpha,
                topk=model.test.refine_topk,
                relabel=refine.relabel,
                pseudo_labels=refine.pseudo_labels,
                mask_grad=refine.mask_grad,
                info_flow=refine.info_flow,
            ),
        )
    )
