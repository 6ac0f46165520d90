"""Which ground-truth object a candidate box belongs to, after Detectron2's Matcher."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int8, Shaped

from jaxseg.ops import boxes as box_ops

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
LOW_QUALITY = ("none", "keep", "reassign")


class Matches(NamedTuple):
    """For each candidate its best object, the label (1 positive, 0 negative, -1 ignored), and the
    IoU (0 without objects).
    """

    index: Int[Array, "M"]
    label: Int8[Array, "M"]
    iou: Float[Array, "M"]


def match(
    iou: Float[Array, "N M"],
    gt_valid: Bool[Array, "N"],
    *,
    positive: float,
    negative: float,
    low_quality: str | bool,
    low_quality_iou: float = 0.0,
    valid: Bool[Array, "M"] | None = None,
) -> Matches:
    """Labels candidates by their best object: positive from IoU `positive` on, negative below
    `negative`, else ignored.

    Args:
      iou: of every object (rows) with every candidate (columns).
      gt_valid: which rows are objects; the others count for nothing.
      positive, negative: the thresholds.
      low_quality: make positive also the candidates that are the best there is for some object (all of them where
        several tie). "keep" (or True): they stay matched to their own best object, which may be another, as in
        Detectron2 and torchvision. "reassign": they are matched to that object (the last one, if they are the best
        for several), as in MMDetection. "none" (or False): no such rule. An object that no candidate touches makes
        none positive.
      low_quality_iou: the least IoU of such a candidate with such an object.
      valid: which columns are candidates. The others are ignored, and are nobody's best.

    Returns:
      Matches without gradient. With no valid object every candidate is negative.

    Raises:
      ValueError: negative > positive, or an unknown low_quality.
    """
    low_quality = {True: "keep", False: "none"}.get(low_quality, low_quality)
    if low_quality not in LOW_QUALITY:
        raise ValueError(f"low_quality={low_quality!r}: allowed are {', '.join(LOW_QUALITY)}.")
    if negative > positive:
        raise ValueError(f"negative={negative} must not be above positive={positive}.")
    objects = iou.shape[0]
    if not objects:
        iou, gt_valid, objects = jnp.zeros((1, iou.shape[1])), jnp.zeros(1, bool), 1
    usable = gt_valid[:, None] if valid is None else gt_valid[:, None] & valid
    # Ties are found by comparing for equality, so the values must be computed once: without the
    # barrier each of the reductions below may recompute the IoUs in a fusion of its own, with other
    # rounding.
    quality = jax.lax.optimization_barrier(jax.lax.stop_gradient(jnp.where(usable, iou, -1.0)))

    best = quality.max(axis=0)
    rows = jnp.arange(objects, dtype=jnp.int32)[:, None]
    # The first row that reaches the maximum. A plain minimum vectorises where argmax does not.
    index = jnp.where(quality == best, rows, objects - 1).min(axis=0)
    label = jnp.where(best >= positive, POSITIVE, jnp.where(best < negative, NEGATIVE, IGNORED))
    if low_quality != "none":
        top = quality.max(axis=1, keepdims=True)
        best_for = (quality == top) & (top > 0) & (top >= low_quality_iou)
        label = jnp.where(best_for.any(axis=0), POSITIVE, label)
        if low_quality == "reassign":
            last = jnp.where(best_for, rows, -1).max(axis=0)
            index = jnp.where(last >= 0, last, index)
    if valid is not None:
        label = jnp.where(valid, label, IGNORED)
    return Matches(index, label.astype(jnp.int8), jnp.maximum(best, 0.0))


def ignore_crowds(
    label: Int8[Array, "M"],
    boxes: Shaped[Array, "M 4"],
    crowd_boxes: Shaped[Array, "C 4"],
    crowd_valid: Bool[Array, "C"],
    threshold: float,
) -> Int8[Array, "M"]:
    """Turns negatives into ignored where at least `threshold` of their area lies on one crowd
    region.
    """
    covered = jnp.where(crowd_valid, box_ops.iof(boxes, crowd_boxes), -1.0) >= threshold
    on_crowd = jax.lax.stop_gradient(covered).any(axis=-1)
    return jnp.where((label == NEGATIVE) & on_crowd, jnp.int8(IGNORED), label)
