"""Cascade Mask R-CNN one image, one RoI and one stage after another, in float64 NumPy: what `CascadeTopology` does.

Cai & Vasconcelos 2018 (arXiv 1712.00726), with Detectron2's and MMDetection's reading of what is to be chosen. Boxes,
pooling and networks are those of tests/methods/reference.py. Padded entries are never looked at.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tests.methods.reference import (
    Object,
    at_least,
    box_head,
    covered,
    crop,
    decode,
    encode,
    iou,
    mask_head,
    pool,
    sigmoid,
    softmax,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """As in configs/common: `model.cascade`, `model.test` and `model.criterion`."""

    num_classes: int
    max_positives: int
    ious: Sequence[float] = (0.5, 0.6, 0.7)
    coders: Sequence[Sequence[float]] = ((10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15))
    average: str = "probabilities"
    crowd_iof: float = 0.5
    score: float = 0.0
    nms_iou: float = 0.5
    candidates: int = 1000
    max_detections: int = 100


@dataclasses.dataclass(frozen=True)
class Image:
    levels: Sequence[np.ndarray]  # H x W x C
    strides: Sequence[int]
    size: tuple[float, float]  # height, width
    proposals: dict[int, np.ndarray]  # by slot
    objects: Sequence[Object] = ()
    crowds: Sequence[np.ndarray] = ()


@dataclasses.dataclass(frozen=True)
class Seen:
    """A RoI in one stage. `object` is None for background, `label` the class, K for background, None: not counted."""

    box: np.ndarray
    label: int | None
    object: Object | None
    logits: np.ndarray
    deltas: np.ndarray  # one a class, or one for all


def losses(params, images: Sequence[Image], sampled: Sequence[dict], settings: Settings):
    """(losses by name, what each stage saw: [stage][image, slot]). `sampled`: the boxes of each image by slot.

    Masks are those of the heads that there are: `mask_head` on the first boxes, `mask_head_1` on those of stage 1.
    """
    result, stages = {}, []
    boxes = {(b, slot): box for b, found in enumerate(sampled) for slot, box in found.items()}
    for stage, (iou_threshold, coder) in enumerate(
        zip(settings.ious, settings.coders, strict=True)
    ):
        seen = {}
        for (b, slot), box in boxes.items():
            label, thing = assign(box, images[b], iou_threshold, settings)
            if stage and not (box[2:] > box[:2]).all():
                label, thing = None, None
            logits, deltas = box_head(params[f"box_head_{stage}"], pool(images[b], box, 7))
            seen[b, slot] = Seen(box, label, thing, logits, deltas)
        stages.append(seen)
        result |= {f"{k}_{stage}": v for k, v in box_losses(seen, coder).items()}
        if f"mask_head_{stage}" in params:
            head = params[f"mask_head_{stage}"]
            result[f"mask_{stage}"] = mask_loss(head, images, seen, settings)
        boxes = {
            (b, slot): decode(roi.box, own_deltas(roi, settings), coder, images[b])
            for (b, slot), roi in seen.items()
        }
    if "mask_head" in params:
        result["mask"] = mask_loss(params["mask_head"], images, stages[0], settings)
    return result, stages


def detect(params, image: Image, settings: Settings):
    """(box, score, class, mask) of each detection, best first."""
    pairs = []
    for box in image.proposals.values():
        every = []
        for stage, coder in enumerate(settings.coders):
            logits, deltas = box_head(params[f"box_head_{stage}"], pool(image, box, 7))
            every.append(logits)
            if stage + 1 < len(settings.coders):
                roi = Seen(box, None, None, logits, deltas)
                box = decode(box, own_deltas(roi, settings), coder, image)
        if settings.average == "logits":
            scores = softmax(np.mean(every, 0))
        else:
            scores = np.mean([softmax(logits) for logits in every], 0)
        for label, score in enumerate(scores[:-1]):
            if at_least(score, settings.score):
                final = decode(box, deltas[min(label, len(deltas) - 1)], coder, image)
                pairs.append((final, score, label))
    pairs = sorted(pairs, key=lambda pair: -pair[1])[: settings.candidates]
    kept = []
    for box, score, label in pairs:
        rivals = [other for other, _, its, _ in kept if its == label]
        if not (box[2:] > box[:2]).all():
            continue
        if any(at_least(iou(box, other), settings.nms_iou) for other in rivals):
            continue
        kept.append((box, score, label, masks(params, image, box, label)))
        if len(kept) == settings.max_detections:
            break
    return kept


def masks(params, image: Image, box, label: int) -> np.ndarray:
    """The mean of the probabilities of all mask heads."""
    heads = [head for name, head in params.items() if name.startswith("mask_head")]
    x = pool(image, box, 14)
    return np.mean([sigmoid(mask_head(head, x, label)[1]) for head in heads], 0)


def own_deltas(roi: Seen, settings: Settings) -> np.ndarray:
    """Those of its object's class; what has none moves as the likeliest class that is not background."""
    label = int(np.argmax(roi.logits[: settings.num_classes]))
    if roi.object is not None:
        label = roi.label
    return roi.deltas[min(label, len(roi.deltas) - 1)]


def assign(box, image: Image, threshold: float, settings: Settings):
    """(label, object) that a box overlaps most, if by `threshold`; else background, or no label on a crowd."""
    overlaps = [iou(box, thing.box) for thing in image.objects]
    best = int(np.argmax(overlaps)) if overlaps else None
    if best is not None and at_least(overlaps[best], threshold):
        return image.objects[best].label, image.objects[best]
    if any(at_least(covered(box, crowd), settings.crowd_iof) for crowd in image.crowds):
        return None, None
    return settings.num_classes, None


def box_losses(seen: dict, coder) -> dict[str, float]:
    counted = [roi for roi in seen.values() if roi.label is not None]
    errors = [-math.log(softmax(roi.logits)[roi.label]) for roi in counted]
    moves = [
        np.abs(
            roi.deltas[min(roi.label, len(roi.deltas) - 1)] - encode(roi.object.box, roi.box, coder)
        ).sum()
        for roi in counted
        if roi.object is not None
    ]
    count = max(len(counted), 1)
    return {"classification": sum(errors) / count, "box": sum(moves) / count}


def mask_loss(head, images, seen: dict, settings: Settings) -> float:
    """The mean over the foreground, of each image at most `max_positives`, those of the first slots."""
    errors = []
    for b, image in enumerate(images):
        slots = sorted(s for i, s in seen if i == b and seen[b, s].object is not None)
        for slot in slots[: settings.max_positives]:
            roi = seen[b, slot]
            _, logits = mask_head(head, pool(image, roi.box, 14), roi.label)
            target = crop(roi.object, roi.box, len(logits))
            errors.append(np.logaddexp(0.0, np.where(target, -logits, logits)).mean())
    return sum(errors) / max(len(errors), 1)
