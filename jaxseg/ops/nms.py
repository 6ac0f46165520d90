"""Greedy non-maximum suppression with static shapes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

from jaxseg.ops import boxes as box_ops


class Kept(NamedTuple):
    """Indices of the boxes that were kept, best first. Where `valid` is False the slot is empty and
    its index is 0.
    """

    index: Int[Array, "max_out"]
    valid: Bool[Array, "max_out"]


def nms(
    boxes: Shaped[Array, "N 4"],
    scores: Shaped[Array, "N"],
    valid: Bool[Array, "N"],
    *,
    iou_threshold: float,
    max_out: int,
    groups: Int[Array, "N"] | None = None,
) -> Kept:
    """Keeps boxes in order of score unless a kept one of the same group overlaps them by more than
    the threshold.

    The result is that of the sequential algorithm. Equal scores keep the order of the input. Boxes
    or scores that are NaN or -inf are never kept.

    Args:
      boxes: xyxy.
      scores: the larger the better.
      valid: which entries exist.
      iou_threshold: suppression needs an IoU above it.
      max_out: number of output slots; may exceed N.
      groups: boxes of different groups (classes, pyramid levels) do not see each other. None: one
        group.
    """
    boxes, scores = jax.lax.stop_gradient((boxes, scores))
    valid = valid & (scores > -jnp.inf) & jnp.isfinite(boxes).all(axis=-1)
    order = jnp.argsort(jnp.where(valid, scores, -jnp.inf), descending=True, stable=True)
    boxes = jnp.where(valid[:, None], boxes, 0.0)[order]

    suppresses = box_ops.iou(boxes, boxes) > iou_threshold
    if groups is not None:
        groups = groups[order]
        suppresses &= groups[:, None] == groups
    place = jnp.arange(boxes.shape[0])
    suppresses &= place[:, None] > place  # row: the box in question, column: a better one
    kept = _greedy(suppresses, valid[order])

    found = jnp.nonzero(kept, size=max_out, fill_value=0)[0]
    exists = jnp.arange(max_out) < kept.sum()
    return Kept(jnp.where(exists, order[found], 0).astype(jnp.int32), exists)


def _greedy(suppresses: Bool[Array, "N N"], candidates: Bool[Array, "N"]) -> Bool[Array, "N"]:
    """The set in which a candidate is if and only if no better member suppresses it.

    Applying that rule to any set makes right the first entry, then those that depend on it, and so on: after as many
    rounds as the longest chain of suppressions (a handful in practice) nothing changes, and the set is the greedy one.
    """

    def rule(kept):
        return candidates & ~(suppresses & kept).any(axis=1)

    def step(state):
        kept, _ = state
        new = rule(kept)
        return new, (new != kept).any()

    return jax.lax.while_loop(lambda state: state[1], step, (candidates, candidates.any()))[0]
