"""Cascade Mask R-CNN (Cai & Vasconcelos 2018, arXiv 1712.00726; 2019, arXiv 1906.09756): box heads one after another.

  proposals -> box_head_0 -> boxes -> box_head_1 -> boxes -> box_head_2 -> boxes      (any number of stages from two)
               IoU 0.5               IoU 0.6               IoU 0.7

Each stage learns from the boxes of the one before, which lie better, so it can ask for a higher IoU of its foreground.
What is found has the boxes of the last stage and the scores of all. There is one mask head, trained on the proposals,
or one for each stage, trained on its boxes. Everything but the RoI heads is `mask_rcnn`, with whatever mask head and
criterion the config asks for.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Key

from jaxseg.methods import mask_rcnn, settings
from jaxseg.modeling.criterion import MaskTerms, MatchingTask, Selection, Terms
from jaxseg.modeling.roi_heads import (
    DetectionSettings,
    Topology,
    best_pairs,
    first_slots,
    likeliest_class,
    mask_terms,
    moving_classes,
    next_boxes,
    take_slots,
)
from jaxseg.structures import Pyramid, RoIs, ScoredBoxes, Targets

RULES = {
    "cascade.ious": settings.several(settings.number(0.0, 1.0, above=True)),
    "cascade.coders": settings.several(settings.several(settings.number(0.0, above=True), 4)),
    "cascade.loss_weights": settings.several(settings.number(0.0)),
    "cascade.scale_gradient": settings.FLAG,
    "cascade.average": settings.one_of("probabilities", "logits"),
    "cascade.mask_heads": settings.whole(1),
}


class CascadeTopology(Topology):
    """Box heads, each on the boxes of the one before. Stages count from 0, in parameters and in names of losses.

    Attributes:
      box_head: one a stage; their parameters are `box_head_0` and so on.
      mask_head: one, `mask_head`; or one a stage, `mask_head_0` and so on.
      tasks: the criterion's task for RoIs, with the IoU and the box coder of each stage.
      average: of which numbers of the stages a detection's scores are made: probabilities or logits.
      test: the test settings.
    """

    box_head: Sequence[nn.Module]
    mask_head: nn.Module | Sequence[nn.Module]
    tasks: Sequence[MatchingTask]
    num_classes: int
    average: str
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
        """The terms of every box head, and of the mask head or heads."""
        selection = self.tasks[0].select(key, proposals, targets, self.num_classes)
        stages = []
        for stage, head in enumerate(self.box_head):
            logits, deltas = head(pyramid, selection.rois, train=train)
            stages.append((selection, self.tasks[stage].loss(logits, deltas, selection)))
            if stage + 1 < len(self.box_head):
                classes = moving_classes(selection, logits, self.num_classes)
                boxes = self._move(stage, deltas, classes, selection.rois.boxes, pyramid)
                selection = self._relabel(stage + 1, boxes, selection, targets)
        terms = [
            terms.replace(
                losses=_suffixed(terms.losses, f"_{stage}"), log=_suffixed(terms.log, f"_{stage}")
            )
            for stage, (_, terms) in enumerate(stages)
        ]
        masks = []
        for (suffix, head), stage in zip(self._mask_heads().items(), stages, strict=False):
            own = self._mask_terms(head, pyramid, *stage, targets, train)
            masks.append(own.replace(losses=_suffixed(own.losses, suffix)))
        return terms, masks

    def candidates(self, pyramid: Pyramid, proposals: RoIs) -> tuple[ScoredBoxes, None]:
        """The averaged scores on the last stage's boxes."""
        rois, every = proposals, []
        for stage, head in enumerate(self.box_head):
            logits, deltas = head(pyramid, rois, train=False)
            every.append(logits)
            if stage + 1 < len(self.box_head):
                classes = likeliest_class(logits, self.num_classes)
                boxes = self._move(stage, deltas, classes, rois.boxes, pyramid)
                rois = rois.replace(boxes=boxes)
        scores, coder = self._scores(every), self.tasks[-1].coder
        return best_pairs(scores, deltas, rois, pyramid.image_size, coder, self.test), None

    def masks(
        self, pyramid: Pyramid, found: ScoredBoxes, seen: None = None
    ) -> Float[Array, "B D h w"]:
        """The mask head's probabilities; where there are several, their means."""
        del seen
        rois = RoIs(found.boxes, found.valid, found.valid)
        masks = [
            head.probabilities(head(pyramid, rois, found.classes, train=False))
            for head in self._mask_heads().values()
        ]
        return sum(masks) / len(masks)

    def _move(self, stage: int, deltas, classes, boxes, pyramid: Pyramid) -> Float[Array, "B R 4"]:
        """The boxes that a stage makes of those it was given."""
        coder, clamp = self.tasks[stage].coder, self.test.two_sided_clamp
        size = pyramid.image_size
        return next_boxes(deltas, classes, boxes, size, coder, two_sided_clamp=clamp)

    def _relabel(self, stage: int, boxes: Array, before: Selection, targets: Targets) -> Selection:
        """The sampled RoIs, now on `boxes`, as a stage learns from them; one without extent teaches nothing."""
        extended = (boxes[..., 2:] > boxes[..., :2]).all(-1)
        rois = RoIs(boxes, before.rois.valid, before.rois.valid & extended)
        return self.tasks[stage].relabel(rois, targets, self.num_classes)

    def _mask_terms(self, head, pyramid, selection: Selection, terms: Terms, targets, train: bool):
        """On a stage's foreground: of at most as many RoIs an image as are sampled."""
        slots = first_slots(selection.positive, self.tasks[0].max_positives)
        foreground, weights = take_slots((selection, terms.mask_weights), slots)
        balance = terms.balance
        return mask_terms(head, pyramid, foreground, weights, balance, targets, train=train)

    def _scores(self, logits: Sequence[Float[Array, "B R L"]]) -> Float[Array, "B R K"]:
        scores = self.tasks[-1].scores
        if self.average == "logits":
            return scores(sum(logits) / len(logits))
        return sum(map(scores, logits)) / len(logits)

    def _mask_heads(self) -> dict[str, nn.Module]:
        """By the end of their losses' names: the only one, of the first stage, or one a stage."""
        if isinstance(self.mask_head, Sequence):
            return {f"_{stage}": head for stage, head in enumerate(self.mask_head)}
        return {"": self.mask_head}


def _suffixed(values: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    return {name + suffix: value for name, value in values.items()}


def stage_weights(losses: Mapping[str, float], stages: Sequence[float]) -> dict[str, float]:
    """The weights of losses by name, and those of `box_1` and so on: that of `box` times that of stage 1."""
    return dict(losses) | {
        f"{name}_{stage}": weight * times
        for name, weight in losses.items()
        for stage, times in enumerate(stages)
    }


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def scale_gradient(x: Array, factor: float) -> Array:
    """`x` as it is; its gradient is multiplied by `factor`."""
    return x


scale_gradient.defvjp(lambda x, factor: (x, None), lambda factor, _, g: (g * factor,))


def _pool_with_scaled_gradient(pool, factor: float, pyramid: Pyramid, boxes, size: int):
    return scale_gradient(pool(pyramid, boxes, size), factor)


def _check(model) -> None:
    wanted, key = model.cascade, "config.model.cascade"
    stages = len(wanted.ious)
    if stages < 2:
        raise ValueError(
            f"{key}.ious={tuple(wanted.ious)}: a cascade has two stages or more; one is method='mask_rcnn'."
        )
    for name in ("coders", "loss_weights"):
        if len(wanted[name]) != stages:
            raise ValueError(
                f"{key}.{name}={tuple(wanted[name])} is for {len(wanted[name])} stages, and {key}.ious="
                f"{tuple(wanted.ious)} for {stages}: give one for each stage."
            )
    if sorted(wanted.ious) != list(wanted.ious):
        raise ValueError(
            f"{key}.ious={tuple(wanted.ious)}: from stage to stage boxes lie better; allowed are numbers that do not "
            "fall."
        )
    if wanted.mask_heads not in (1, stages):
        raise ValueError(
            f"{key}.mask_heads={wanted.mask_heads}: allowed is 1, or {stages}, one for each of {key}.ious."
        )
    roi = model.criterion.roi
    for name, first, single in (
        ("ious", wanted.ious[0], roi.positive_iou),
        ("coders", tuple(wanted.coders[0]), tuple(roi.coder)),
    ):
        if first != single:
            other = {"ious": "positive_iou", "coders": "coder"}[name]
            raise ValueError(
                f"{key}.{name} begins with {first}, and config.model.criterion.roi.{other}={single} says the same of "
                "the first stage: set both to one value."
            )


def build(config) -> mask_rcnn.MaskRCNN:
    """Mask R-CNN of `config` with a cascade of box heads, see `model.cascade` in configs/common.

    Raises:
      ValueError: settings that contradict each other.
    """
    cascade = config.model.cascade
    _check(config.model)
    plain = mask_rcnn.build(config)
    heads, stages = plain.roi_heads, len(cascade.ious)
    box, mask = heads.box_head, heads.mask_head
    if cascade.scale_gradient:
        box = box.clone(pool=functools.partial(_pool_with_scaled_gradient, box.pool, 1 / stages))
    later = [
        heads.task.at(iou, tuple(coder))
        for iou, coder in zip(cascade.ious[1:], cascade.coders[1:], strict=True)
    ]
    weights = stage_weights(plain.criterion.weights, cascade.loss_weights)
    return plain.clone(
        roi_heads=CascadeTopology(
            box_head=tuple(box.clone() for _ in range(stages)),
            mask_head=mask
            if cascade.mask_heads == 1
            else tuple(mask.clone() for _ in range(stages)),
            tasks=(heads.task, *later),
            num_classes=heads.num_classes,
            average=cascade.average,
            test=heads.test,
        ),
        criterion=dataclasses.replace(plain.criterion, weights=weights),
    )
