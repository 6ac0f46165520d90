"""NMS against the sequential algorithm, for boxes with ties, groups, padding and bad numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.ops import boxes as box_ops
from jaxseg.ops import nms as nms_ops

COUNT = 32
nms = jax.jit(nms_ops.nms, static_argnames=("iou_threshold", "max_out"))
pairwise_iou = jax.jit(box_ops.iou)
half = partial(nms, iou_threshold=0.5, max_out=COUNT)
in_blocks = jax.jit(partial(nms_ops.nms, iou_threshold=0.5, max_out=7, block=5))
# What was kept before is looked at in three parts.
tiny_blocks = jax.jit(partial(nms_ops.nms, iou_threshold=0.5, max_out=20, block=2))


def greedy(boxes, scores, valid, threshold, groups):
    """The sequential algorithm; IoUs from box_ops so that equality is exact."""
    iou = np.asarray(pairwise_iou(boxes, boxes)).tolist()
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if not valid[i]:
            continue
        rivals = [j for j in kept if groups[i] == groups[j]]
        if all(iou[i][j] <= threshold for j in rivals):
            kept.append(int(i))
    return kept


def kept_by(result):
    return np.asarray(result.index)[np.asarray(result.valid)].tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, COUNT), st.booleans(), st.integers(1, 4))
def test_equals_the_sequential_algorithm(seed, count, ties, groups):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 12, (COUNT, 2)) * 2.0
    boxes = np.concatenate([corner, corner + rng.integers(2, 12, (COUNT, 2))], 1).astype(np.float32)
    scores = (rng.integers(0, 4, COUNT) / 4 if ties else rng.normal(size=COUNT)).astype(np.float32)
    group = rng.integers(0, groups, COUNT).astype(np.int32)
    # Padding is anywhere, and would win if it took part.
    valid = np.zeros(COUNT, bool)
    valid[rng.permutation(COUNT)[:count]] = True
    scores_padded = np.where(valid, scores, 10.0).astype(np.float32)
    result = half(boxes, scores_padded, valid, groups=group)
    wanted = greedy(boxes, scores, valid, 0.5, group)
    assert kept_by(result) == wanted
    assert kept_by(in_blocks(boxes, scores_padded, valid, groups=group)) == wanted[:7]
    assert kept_by(tiny_blocks(boxes, scores_padded, valid, groups=group)) == wanted[:20]
    assert (result.index[~result.valid] == 0).all()


def test_overlap_at_the_threshold_is_kept():
    boxes = jnp.asarray([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 5.5]])
    result = nms(boxes, jnp.asarray([3.0, 2, 1]), jnp.ones(3, bool), iou_threshold=0.5, max_out=3)
    assert kept_by(result) == [0, 1]


def chain(count, step):
    x = np.arange(count) * step
    return jnp.asarray(np.stack([x, 0 * x, x + 30, 0 * x + 30], 1), jnp.float32)


def test_long_chain_of_suppressions():
    # Each box suppresses the next: every other one stays, and each verdict hangs on all before it.
    result = half(chain(COUNT, 8.0), -jnp.arange(COUNT, dtype=jnp.float32), jnp.ones(COUNT, bool))
    assert kept_by(result) == list(range(0, COUNT, 2))


def test_only_the_best_fit():
    boxes = jnp.stack([jnp.asarray([x, 0, x + 1, 1.0]) for x in range(8)])
    scores = jnp.asarray([0.1, 0.8, 0.3, 0.7, 0.5, 0.2, 0.6, 0.4])
    args = dict(iou_threshold=0.5)
    few = nms(boxes, scores, jnp.ones(8, bool), max_out=3, **args)
    assert kept_by(few) == [1, 3, 6]
    many = nms(boxes, scores, jnp.ones(8, bool), max_out=11, **args)
    assert kept_by(many) == np.argsort(-scores).tolist() and many.valid.sum() == 8


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_scores_that_are_no_numbers_are_dropped(bad):
    boxes = chain(COUNT, 40.0)
    scores = np.linspace(1, 2, COUNT, dtype=np.float32)
    scores[[3, 7]] = bad, np.inf
    kept = kept_by(half(boxes, jnp.asarray(scores), jnp.ones(COUNT, bool)))
    assert kept[0] == 7 and set(kept) == set(range(COUNT)) - {3}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_boxes_that_are_no_numbers_are_dropped(bad):
    boxes = chain(COUNT, 40.0).at[5, 2].set(bad)
    kept = kept_by(half(boxes, jnp.arange(COUNT, dtype=jnp.float32), jnp.ones(COUNT, bool)))
    assert set(kept) == set(range(COUNT)) - {5}


def test_groups_are_exact_at_large_coordinates():
    # Shifting boxes by group, the usual trick, would round these sides away.
    boxes = jnp.tile(chain(2, 8.0) + 1e5, (COUNT // 2, 1))
    groups = jnp.repeat(jnp.arange(COUNT // 2), 2).astype(jnp.int32) * 1000
    scores = -jnp.arange(COUNT, dtype=jnp.float32)
    kept = kept_by(half(boxes, scores, jnp.ones(COUNT, bool), groups=groups))
    assert kept == list(range(0, COUNT, 2))


def test_vmap_and_no_gradient(rng):
    boxes = jnp.asarray(rng.uniform(0, 20, (3, COUNT, 4)), jnp.float32)
    boxes = boxes.at[..., 2:].add(boxes[..., :2])
    scores = jnp.asarray(rng.normal(size=(3, COUNT)), jnp.float32)
    valid = jnp.asarray(rng.uniform(size=(3, COUNT)) < 0.7)
    batched = jax.vmap(half)(boxes, scores, valid)
    for i in range(3):
        single = half(boxes[i], scores[i], valid[i])
        np.testing.assert_array_equal(batched.index[i], single.index)
        np.testing.assert_array_equal(batched.valid[i], single.valid)

    def chosen(boxes, scores):
        return scores[half(boxes, scores, valid[0]).index].sum()

    gradients = jax.jit(jax.grad(chosen, (0, 1)))(boxes[0], scores[0])
    assert (gradients[0] == 0).all() and np.isfinite(gradients[1]).all()


def test_blocks_see_what_those_before_them_kept():
    # One chain through all of them, no group given, and more slots than boxes; under vmap as well.
    boxes, scores = chain(COUNT, 8.0), -jnp.arange(COUNT, dtype=jnp.float32)
    settings = dict(iou_threshold=0.5, max_out=COUNT + 3, block=5)
    every = jax.vmap(lambda valid: nms_ops.nms(boxes, scores, valid, **settings))
    result = every(jnp.stack([jnp.ones(COUNT, bool), jnp.arange(COUNT) > 0]))
    assert result.index[0][result.valid[0]].tolist() == list(range(0, COUNT, 2))
    assert result.index[1][result.valid[1]].tolist() == list(range(1, COUNT, 2))


def test_nothing_valid():
    result = half(jnp.full((COUNT, 4), jnp.nan), jnp.zeros(COUNT), jnp.zeros(COUNT, bool))
    assert not result.valid.any() and (result.index == 0).all()


def lists(rng, count):
    """Lists of boxes, best first, and what of them exists, that have as little in common as can be."""
    corner, sides = rng.uniform(0, 900, (count, 2)), rng.uniform(10, 70, (count, 2))
    scattered = np.concatenate([corner, corner + sides], 1)
    repeated = scattered[np.arange(count) % 7] + rng.uniform(0, 1, (count, 4))
    broken = np.where(rng.uniform(size=(count, 4)) < 0.05, np.nan, scattered)
    every = np.ones(count, bool)
    last = np.arange(count) == count - 1
    boxes = [chain(count, 8.0), scattered, repeated, broken, scattered, repeated]
    valid = [every, every, every, every, ~every, last]
    return jnp.asarray(np.stack(boxes), jnp.float32), jnp.asarray(np.stack(valid))


@pytest.mark.parametrize("max_out", [3, 90])
def test_lists_that_end_at_different_times(rng, max_out):
    """Under two vmaps, with more boxes than a CPU's block: each list as if it were alone."""
    count = 2 * nms_ops.CPU_BLOCK + 5
    boxes, valid = lists(rng, count)

    def chosen(boxes, valid, **block):
        return nms_ops.nms_sorted(boxes, valid, iou_threshold=0.5, max_out=max_out, **block)

    paired = boxes.reshape(2, 3, count, 4), valid.reshape(2, 3, count)
    index, exists = jax.jit(jax.vmap(jax.vmap(chosen)))(*paired)
    whole = jax.jit(jax.vmap(jax.vmap(partial(chosen, block=count))))(*paired)
    for i, list_ in enumerate(zip(index.reshape(6, -1), exists.reshape(6, -1), strict=True)):
        real = valid[i] & jnp.isfinite(boxes[i]).all(-1)
        expected = greedy(boxes[i], -np.arange(count), real, 0.5, np.zeros(count))[:max_out]
        assert kept_by(nms_ops.Kept(*list_)) == expected
    np.testing.assert_array_equal(index, whole.index)
    np.testing.assert_array_equal(exists, whole.valid)
    gradient = jax.jit(jax.grad(lambda b: b[chosen(b, valid[0]).index].sum()))(boxes[0])
    assert gradient.sum() == 4 * max_out


def test_best_first_needs_no_scores(rng):
    scores, args = -jnp.arange(COUNT, dtype=jnp.float32), dict(iou_threshold=0.5, max_out=9)

    def both(boxes, valid):
        plain = nms_ops.nms(boxes, scores, valid, **args)
        return plain, nms_ops.nms_sorted(boxes, valid, **args)

    plain, best_first = jax.jit(jax.vmap(both))(*lists(rng, COUNT))
    np.testing.assert_array_equal(plain.index, best_first.index)
    np.testing.assert_array_equal(plain.valid, best_first.valid)


def test_the_platform_of_the_program_decides_on_the_block():
    """Not that of the process that lowers it: all pairs of 200 boxes on a GPU, and blocks on a CPU."""
    shapes = jax.ShapeDtypeStruct((200, 4), jnp.float32), jax.ShapeDtypeStruct((200,), bool)
    traced = jax.jit(partial(nms_ops.nms_sorted, iou_threshold=0.5, max_out=9)).trace(*shapes)
    text = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda", "tpu")}
    assert {p: "200x200xi1" in lowered for p, lowered in text.items()} == {
        "cpu": False,
        "cuda": True,
        "tpu": True,
    }
