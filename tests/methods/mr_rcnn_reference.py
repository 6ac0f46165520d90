"""Mask Refining R-CNN one image and one RoI after another, in float64 NumPy: what `RefiningTopology` has to compute.

Ding, Qiao, Shen, Yuille 2019, arXiv 1911.11263v1; its equations and tables are named where they act, and "ours" says
what it leaves open. Boxes, pooling and networks are those of tests/methods/reference.py. Padded entries are never
looked at.
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
    """As in configs/common: `model.refine`, `model.test` and `model.criterion`."""

    num_classes: int
    max_positives: int  # refined masks an image that are trained
    coder: Sequence[float] = (10.0, 10.0, 5.0, 5.0)
    roi_iou: float = 0.5
    crowd_iof: float = 0.5
    iou: float = 0.5
    cls: bool = True
    reg: bool = True
    relabel: bool = True
    pseudo_labels: bool = True
    info_flow: str = "B"
    flow_relu: bool = True
    score_alpha: float = 1.0
    refine_topk: int = 1000
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
    objects: dict[int, Object] = dataclasses.field(default_factory=dict)
    crowds: Sequence[np.ndarray] = ()


@dataclasses.dataclass
class Look:
    """What the two stages see of one RoI, in the paper's letters."""

    R: np.ndarray  # the proposal
    Sb: np.ndarray  # logits of the K classes and of background
    deltas: np.ndarray  # (K, 4), from R to B
    c: int  # the class that chooses among `deltas` and among the masks
    B: np.ndarray
    features: np.ndarray  # of the vanilla mask head on B, after its convolutions
    P_logits: np.ndarray
    Sr: np.ndarray
    refined_deltas: np.ndarray  # (K, 4), from B to B^r

    @property
    def P(self):
        return sigmoid(self.P_logits)


@dataclasses.dataclass(frozen=True)
class Label:
    """What a RoI is to become. Background has no object, and class K."""

    counted: bool
    label: int
    object: int | None = None


# Stage by stage.


def look(params, image: Image, R, settings: Settings, label: int | None = None) -> Look:
    """Both stages on one RoI. `label`: the class of its object, None for background and at test time."""
    Sb, deltas = box_head(params["box_head"], pool(image, R, 7))
    # Pseudo label (section "Training"): what has no object is guided by the mask of its likeliest foreground class.
    c = int(np.argmax(Sb[: settings.num_classes])) if label is None else label
    B = decode(R, deltas[c], settings.coder, image)
    features, P_logits = mask_head(params["mask_head"], pool(image, B, 14), c)
    guided = pool(image, B, 7, mask=sigmoid(P_logits))  # eq. 4: a probability, on B, for this class
    Sr, refined_deltas = box_head(params["refine_box_head"], guided)
    if not settings.reg:  # Table 4, CLS: B^r is B
        refined_deltas = np.zeros_like(refined_deltas)
    return Look(R, Sb, deltas, c, B, features, P_logits, Sr, refined_deltas)


def refined_mask(params, image: Image, found: Look, Br, c: int, settings: Settings):
    """(F^-, logits of P^r) for class c: eq. 6, RoIAlign(B^r) + F^- goes through the refining mask head."""
    features = found.features
    if settings.info_flow == "Br":  # ours, after HTC: the vanilla mask head's features of B^r
        features, _ = mask_head(params["mask_head"], pool(image, Br, 14), c)
    conv = params["flow"]["conv"]
    flow = features @ conv["kernel"][0, 0] + conv["bias"]
    if settings.flow_relu:
        flow = np.maximum(flow, 0.0)
    _, logits = mask_head(params["refine_mask_head"], pool(image, Br, 14) + flow, c)
    return flow, logits


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What `losses` gives: the losses by name, and by (image, slot) what lies behind them."""

    losses: dict[str, float]
    looks: dict[tuple[int, int], Look]
    on_R: dict[tuple[int, int], Label]
    on_B: dict[tuple[int, int], Label]
    flows: dict[tuple[int, int], np.ndarray]  # F^- of the refined masks


def losses(params, images: Sequence[Image], sampled: Sequence[dict], settings: Settings) -> Lesson:
    """`sampled`: the RoIs of each image by slot. Losses are means over the RoIs of the whole batch: over those that
    count, or for masks over the foreground.
    """
    looks, first, again = {}, {}, {}
    for b, image in enumerate(images):
        for slot, R in sampled[b].items():
            on_R = assign(R, image, settings.roi_iou, settings)
            found = look(params, image, R, settings, None if on_R.object is None else on_R.label)
            looks[b, slot], first[b, slot] = found, on_R
            again[b, slot] = relabel(on_R, found.B, image, settings)

    boxes = {key: found.B for key, found in looks.items()}
    result = {
        "classification": classification_loss({k: v.Sb for k, v in looks.items()}, first),
        "box": box_loss({k: (v.R, v.deltas) for k, v in looks.items()}, first, images, settings),
        "mask": mask_loss({k: v.P_logits for k, v in looks.items()}, boxes, first, images),
    }
    if settings.cls:
        refined = {k: v.Sr for k, v in looks.items()}
        result["refine_classification"] = classification_loss(refined, again)
    if settings.reg:
        refined = {k: (v.B, v.refined_deltas) for k, v in looks.items()}
        result["refine_box"] = box_loss(refined, again, images, settings)

    flows, logits, boxes = {}, {}, {}
    for b, image in enumerate(images):
        foreground = [key for key in looks if key[0] == b and again[key].object is not None]
        for key in sorted(foreground)[: settings.max_positives]:
            c = again[key].label
            boxes[key] = decode(looks[key].B, looks[key].refined_deltas[c], settings.coder, image)
            flows[key], logits[key] = refined_mask(
                params, image, looks[key], boxes[key], c, settings
            )
    result["refine_mask"] = mask_loss(logits, boxes, again, images)
    return Lesson(result, looks, first, again, flows)


@dataclasses.dataclass(frozen=True)
class Detection:
    box: np.ndarray
    score: float
    label: int
    mask: np.ndarray  # probabilities
    look: Look  # at its proposal


def detect(params, image: Image, settings: Settings) -> list[Detection]:
    """Best first."""
    looks = {s: look(params, image, R, settings) for s, R in image.proposals.items()}
    best = {s: softmax(found.Sb)[: settings.num_classes].max() for s, found in looks.items()}
    refined = sorted(looks, key=lambda s: -best[s])[: settings.refine_topk]

    pairs = []
    for slot in refined:
        found = looks[slot]
        logits = found.Sb
        if settings.cls:
            alpha = settings.score_alpha  # Table 5
            logits = (found.Sb + alpha * found.Sr) / (1.0 + alpha)
        for c, score in enumerate(softmax(logits)[: settings.num_classes]):
            if at_least(score, settings.score):
                Br = decode(found.B, found.refined_deltas[c], settings.coder, image)
                pairs.append((Br, score, c, slot))
    pairs = sorted(pairs, key=lambda pair: -pair[1])[: settings.candidates]

    kept = []
    for Br, score, c, slot in pairs:
        if not (Br[2:] > Br[:2]).all():
            continue
        rivals = [box for box, _, other, _ in kept if other == c]
        if not any(at_least(iou(Br, box), settings.nms_iou) for box in rivals):
            kept.append((Br, score, c, slot))

    found = []
    for Br, score, c, slot in kept[: settings.max_detections]:
        _, logits = refined_mask(params, image, looks[slot], Br, c, settings)
        found.append(Detection(Br, score, c, sigmoid(logits), looks[slot]))
    return found


# Which RoI is to become what.


def assign(box, image: Image, threshold: float, settings: Settings) -> Label:
    """The class of the object that a box overlaps most, if by `threshold`; else background, but nothing on a crowd."""
    overlap = {n: iou(box, thing.box) for n, thing in image.objects.items()}
    if overlap:
        n = max(overlap, key=overlap.get)
        if at_least(overlap[n], threshold):
            return Label(True, image.objects[n].label, n)
    if any(at_least(covered(box, crowd), settings.crowd_iof) for crowd in image.crowds):
        return Label(False, -1)
    return Label(True, settings.num_classes)


def relabel(on_R: Label, B, image: Image, settings: Settings) -> Label:
    """The label that the refining stage learns from: that of B (ours; the paper does not say)."""
    if on_R.object is None and not settings.pseudo_labels:
        return Label(False, -1)
    if settings.relabel:
        return assign(B, image, settings.iou, settings)
    if (B[2:] - B[:2] < 1.0).any():  # ours: from such a box there is no way to an object
        return Label(False, -1)
    return on_R


# Losses.


def classification_loss(logits: dict, labels: dict[tuple, Label]) -> float:
    errors = [
        -math.log(softmax(logits[key])[label.label])
        for key, label in labels.items()
        if label.counted
    ]
    return mean(errors, len(errors))


def box_loss(moves: dict, labels: dict[tuple, Label], images, settings: Settings) -> float:
    """L1 between the deltas of the object's class and those that lead to its box; `moves`: from where, and deltas."""
    errors = []
    for key, label in labels.items():
        if label.object is not None:
            start, deltas = moves[key]
            wanted = encode(images[key[0]].objects[label.object].box, start, settings.coder)
            errors.append(np.abs(deltas[label.label] - wanted).sum())
    return mean(errors, sum(label.counted for label in labels.values()))


def mask_loss(logits: dict, boxes: dict, labels: dict[tuple, Label], images) -> float:
    """Binary cross-entropy with the object's mask as `boxes` cut it out."""
    errors = []
    for key, map_ in logits.items():
        if labels[key].object is not None:
            target = crop(images[key[0]].objects[labels[key].object], boxes[key], len(map_))
            wrong = np.where(target, -map_, map_)
            errors.append(np.logaddexp(0.0, wrong).mean())
    return mean(errors, len(errors))


def mean(values: list[float], count: int) -> float:
    return sum(values) / max(count, 1)
