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
    block: int | None = None,
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
      block: of more boxes than these, so many are compared with each other at a time, which takes
        block x (block + max_out) bytes of memory instead of N x N. The result is the same.
    """
    boxes, scores = jax.lax.stop_gradient((boxes, scores))
    valid = valid & (scores > -jnp.inf) & jnp.isfinite(boxes).all(axis=-1)
    order = jnp.argsort(jnp.where(valid, scores, -jnp.inf), descending=True, stable=True)
    boxes = jnp.where(valid[:, None], boxes, 0.0)[order]
    groups = jnp.zeros(len(boxes), jnp.int32) if groups is None else groups[order]
    if block is None or len(boxes) <= block:
        found, exists = _first(_kept(boxes, groups, valid[order], iou_threshold), max_out)
    else:
        found, exists = _in_blocks(boxes, groups, valid[order], iou_threshold, max_out, block)
    return Kept(jnp.where(exists, order[found], 0).astype(jnp.int32), exists)


def _kept(boxes, groups, candidates, threshold) -> Bool[Array, "N"]:
    """Which of the candidates, best first, are kept."""
    place = jnp.arange(boxes.shape[0])
    # row: the box in question, column: a better one
    suppresses = _overlaps(boxes, groups, boxes, groups, threshold) & (place[:, None] > place)
    return _greedy(suppresses, candidates)


def _overlaps(boxes, groups, others, their_groups, threshold) -> Bool[Array, "N M"]:
    return (box_ops.iou(boxes, others) > threshold) & (groups[:, None] == their_groups)


def _first(kept: Bool[Array, "N"], count: int) -> tuple[Int[Array, "D"], Bool[Array, "D"]]:
    """The places of the first `count` that are kept, and which of these slots are taken."""
    found = jnp.nonzero(kept, size=count, fill_value=0)[0]
    return found, jnp.arange(count) < kept.sum()


def _in_blocks(
    boxes: Shaped[Array, "N 4"],
    groups: Int[Array, "N"],
    candidates: Bool[Array, "N"],
    threshold: float,
    max_out: int,
    size: int,
) -> tuple[Int[Array, "D"], Bool[Array, "D"]]:
    """`_first` of `_kept`, block by block from the best on, until `max_out` are kept.

    While fewer are, all of those that could suppress what comes next are among the slots.
    """
    count = boxes.shape[0]
    pad = -count % size
    boxes = jnp.pad(boxes, ((0, pad), (0, 0)))
    groups, candidates = jnp.pad(groups, (0, pad)), jnp.pad(candidates, (0, pad))

    def unfinished(state):
        start, _, exists = state
        return (start < count) & ~exists[-1]

    def step(state):
        start, found, exists = state
        own_boxes, own_groups, own = (
            jax.lax.dynamic_slice_in_dim(x, start, size) for x in (boxes, groups, candidates)
        )
        covered = _overlaps(own_boxes, own_groups, boxes[found], groups[found], threshold) & exists
        kept = _kept(own_boxes, own_groups, own & ~covered.any(axis=1), threshold)
        new, there = _first(kept, max_out)
        # Behind those that were found before; what finds no slot is beyond the best.
        slot = jnp.where(there, exists.sum() + jnp.arange(max_out), max_out)
        found = found.at[slot].set(start + new, mode="drop")
        exists = exists.at[slot].set(True, mode="drop")
        return start + size, found, exists

    start = jnp.zeros((), jnp.int32)
    state = start, jnp.zeros(max_out, jnp.int32), jnp.zeros(max_out, bool)
    _, found, exists = jax.lax.while_loop(unfinished, step, state)
    return found, exists


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
