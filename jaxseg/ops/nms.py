"""Greedy non-maximum suppression with static shapes."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

from jaxseg.ops import boxes as box_ops

# Boxes that are compared with each other at once. A CPU pays for every pair, so blocks are as small as the cost of
# starting an operation lets them be. A GPU compares all pairs at once in about the time of a few, and pays for every
# turn of a loop; there the bound is memory, 16 MiB a list.
CPU_BLOCK = 64
BLOCK = 4096
# A block meets those kept before it so many blocks' worth at a time.
KEPT_BLOCKS = 4


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
      block: so many boxes are compared with each other at a time, which takes block x block bytes of
        memory. The result is the same. None: what suits the platform.
    """
    scores = jax.lax.stop_gradient(scores)
    valid = valid & (scores > -jnp.inf)
    order = jnp.argsort(jnp.where(valid, scores, -jnp.inf), descending=True, stable=True)
    found, exists = nms_sorted(
        boxes[order],
        valid[order],
        iou_threshold=iou_threshold,
        max_out=max_out,
        groups=None if groups is None else groups[order],
        block=block,
    )
    return Kept(jnp.where(exists, order[found], 0).astype(jnp.int32), exists)


def nms_sorted(
    boxes: Shaped[Array, "N 4"],
    valid: Bool[Array, "N"],
    *,
    iou_threshold: float,
    max_out: int,
    groups: Int[Array, "N"] | None = None,
    block: int | None = None,
) -> Kept:
    """`nms` of boxes that come best first, as `jax.lax.top_k` leaves them; those that are not valid may be anywhere."""
    boxes = jax.lax.stop_gradient(boxes)
    valid = valid & jnp.isfinite(boxes).all(axis=-1)
    boxes = jnp.where(valid[:, None], boxes, 0.0)
    groups = jnp.zeros(len(boxes), jnp.int32) if groups is None else groups
    best = functools.partial(_best, threshold=iou_threshold, max_out=max_out)
    if block is not None:
        return Kept(*best(boxes, groups, valid, size=block))
    by_platform = {"cpu": CPU_BLOCK, "default": BLOCK}
    branches = {name: functools.partial(best, size=size) for name, size in by_platform.items()}
    return Kept(*jax.lax.platform_dependent(boxes, groups, valid, **branches))


def _best(boxes, groups, candidates, *, threshold, max_out, size):
    """The places of the first `max_out` that are kept, and which of these slots are taken."""
    if len(boxes) > size:
        return _in_blocks(boxes, groups, candidates, threshold, max_out, size)
    kept = _kept(boxes, groups, candidates, threshold)
    found = jnp.nonzero(kept, size=max_out, fill_value=0)[0].astype(jnp.int32)
    return found, jnp.arange(max_out) < kept.sum()


def _kept(boxes, groups, candidates, threshold) -> Bool[Array, "N"]:
    """Which of the candidates, best first, are kept."""
    place = jnp.arange(boxes.shape[0])
    better = place[:, None] < place
    return _greedy(_overlaps(boxes, groups, boxes, groups, threshold) & better, candidates)


def _overlaps(boxes, groups, others, their_groups, threshold) -> Bool[Array, "N M"]:
    return (box_ops.iou(boxes, others) > threshold) & (groups[:, None] == their_groups)


def _greedy(suppresses: Bool[Array, "N N"], candidates: Bool[Array, "N"]) -> Bool[Array, "N"]:
    """The set in which a candidate is if and only if no better member suppresses it.

    Applying that rule to any set makes right the first entry, then those that depend on it, and so on: after as many
    rounds as the longest chain of suppressions (a handful in practice) nothing changes, and the set is the greedy one.

    Args:
      suppresses: row: the better box, column: the box in question. In this order XLA's code for CPUs decides on many
        boxes at once, and takes a fifth of the time.
      candidates: best first.
    """

    def rule(kept):
        return candidates & ~(suppresses & kept[:, None]).any(axis=0)

    def step(state):
        kept, _ = state
        new = rule(kept)
        return new, _in_any_list((new != kept).any())

    start = candidates, _in_any_list(candidates.any())
    return jax.lax.while_loop(lambda state: state[1], step, start)[0]


def _in_blocks(
    boxes: Shaped[Array, "N 4"],
    groups: Int[Array, "N"],
    candidates: Bool[Array, "N"],
    threshold: float,
    max_out: int,
    size: int,
) -> tuple[Int[Array, "D"], Bool[Array, "D"]]:
    """`_best`, block by block from the best on, until `max_out` are kept or no candidate is left.

    While fewer are, all of those that could suppress what comes next are among the slots.
    """
    # No sooner than the last candidate, which for the short levels of a pyramid is far before the last box.
    end = jnp.max(jnp.where(candidates, jnp.arange(1, len(boxes) + 1), 0))
    pad = -len(boxes) % size
    boxes = jnp.pad(boxes, ((0, pad), (0, 0)))
    groups, candidates = jnp.pad(groups, (0, pad)), jnp.pad(candidates, (0, pad))
    few = min(max_out, KEPT_BLOCKS * size)
    place = jnp.arange(size, dtype=jnp.int32)

    def covered(own_boxes, own_groups, found, taken):
        """Which of a block's boxes are suppressed by those found so far."""

        def step(state):
            first, covered = state
            slots = jax.lax.dynamic_slice_in_dim(found, first, few)
            exists = first + jnp.arange(few) < taken
            by = _overlaps(boxes[slots], groups[slots], own_boxes, own_groups, threshold)
            return first + few, covered | (by & exists[:, None]).any(axis=0)

        start = jnp.zeros((), jnp.int32), jnp.zeros(size, bool)
        return jax.lax.while_loop(lambda s: _in_any_list(s[0] < taken), step, start)[1]

    def step(state):
        start, found, taken, _ = state
        own_boxes, own_groups, own = (
            jax.lax.dynamic_slice_in_dim(x, start, size) for x in (boxes, groups, candidates)
        )
        left = own & ~covered(own_boxes, own_groups, found, taken)
        kept = _kept(own_boxes, own_groups, left, threshold)
        # Behind those that were found before. What finds no slot is beyond the best.
        slot = jnp.where(kept, taken - 1 + jnp.cumsum(kept, dtype=jnp.int32), found.size)
        found = found.at[slot].set(start + place, mode="drop")
        taken = jnp.minimum(taken + kept.sum(dtype=jnp.int32), max_out)
        start += size
        return start, found, taken, _in_any_list((taken < max_out) & (start < end))

    none = jnp.zeros((), jnp.int32)
    slots = jnp.zeros(max_out + -max_out % few, jnp.int32)
    state = none, slots, none, _in_any_list(end > 0)
    _, found, taken, _ = jax.lax.while_loop(lambda state: state[-1], step, state)
    exists = jnp.arange(max_out) < taken
    return jnp.where(exists, found[:max_out], 0), exists


@jax.custom_batching.custom_vmap
def _in_any_list(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """`flag`; under vmap, whether it is set in any of the lists, the same for all of them.

    A loop with such a condition runs on for all lists until the last one is done, as any loop under vmap does, but its
    counter stays a single one, so that slices stay slices, and it need not hold back what is done. Another turn must
    leave what is done as it is.
    """
    return flag


@_in_any_list.def_vmap
def _(axis_size, in_batched, flag):
    del axis_size, in_batched
    return _in_any_list(flag.any(axis=0)), False
