"""Matching: published cases, Detectron2's loop as a reference, padding, crowds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops import boxes as box_ops
from jaxseg.ops import matching

match = jax.jit(
    matching.match, static_argnames=("positive", "negative", "low_quality", "low_quality_iou")
)
rpn = partial(match, positive=0.7, negative=0.3, low_quality=True)


def reference(iou, positive, negative, low_quality):
    """Detectron2's Matcher as a loop, on real objects and candidates only."""
    count, candidates = iou.shape
    index, label = np.zeros(candidates, int), np.zeros(candidates, int)
    for j in range(candidates if count else 0):
        index[j] = max(range(count), key=lambda i: iou[i, j])
        best = iou[index[j], j]
        label[j] = 1 if best >= positive else -1 if best >= negative else 0
    if low_quality:
        for i in range(count):
            for j in range(candidates):
                if iou[i, j] == iou[i].max() > 0:
                    label[j] = 1
    return index, label


def test_case_of_detectron2():
    iou = jnp.asarray([[0.15, 0.45, 0.2, 0.6], [0.3, 0.65, 0.05, 0.1], [0.05, 0.4, 0.25, 0.4]])
    found = rpn(iou, jnp.ones(3, bool))
    np.testing.assert_array_equal(found.index, [1, 1, 2, 0])
    np.testing.assert_array_equal(found.label, [-1, 1, 0, 1])
    np.testing.assert_allclose(found.iou, [0.3, 0.65, 0.25, 0.6])


def test_cases_of_mmdetection():
    boxes = jnp.asarray([[0.0, 0, 10, 10], [10, 10, 20, 20], [5, 5, 15, 15], [32, 32, 38, 42]])
    objects = jnp.asarray([[0.0, 0, 10, 9], [0, 10, 10, 19]])
    options = dict(positive=0.5, negative=0.5, low_quality=True)
    found = match(box_ops.iou(objects, boxes), jnp.ones(2, bool), **options)
    np.testing.assert_array_equal(np.where(found.label == 1, found.index + 1, 0), [1, 0, 2, 0])

    boxes = boxes.at[3].set(jnp.asarray([30.0, 32, 40, 42]))
    crowd = jnp.asarray([[30.0, 30, 40, 40], [0, 0, 100, 100]])
    found = match(box_ops.iou(objects, boxes), jnp.ones(2, bool), **options)
    label = matching.ignore_crowds(found.label, boxes, crowd, jnp.asarray([True, False]), 0.5)
    np.testing.assert_array_equal(label, [1, 0, 1, -1])


def test_case_of_tensorflow():
    iou = jnp.asarray([[0.04, 0, 0, 0], [0, 0, 1, 0]])
    found = match(iou, jnp.ones(2, bool), positive=0.5, negative=0.5, low_quality=False)
    assert found.index[0] == 0 and found.index[2] == 1
    np.testing.assert_array_equal(found.label, [0, 0, 1, 0])


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("objects", [0, 1, 6])
def test_equals_the_loop_with_ties_and_padding(rng, low_quality, objects):
    # Small fractions make many ties; the padded rows and columns hold what would match best of all.
    iou = rng.integers(0, 8, (objects, 40)) / np.where(np.arange(objects) % 2, 8.0, 16.0)[:, None]
    padded = np.full((6, 48), 1.0, np.float32)
    padded[:objects, :40] = iou
    padded[objects:, :20] = np.nan
    found = match(
        jnp.asarray(padded),
        jnp.arange(6) < objects,
        positive=0.7,
        negative=0.3,
        low_quality=low_quality,
        valid=jnp.arange(48) < 40,
    )
    index, label = reference(iou, 0.7, 0.3, low_quality)
    np.testing.assert_array_equal(found.label[:40], label)
    np.testing.assert_array_equal(found.label[40:], -1)
    if objects:
        np.testing.assert_array_equal(found.index[:40], index)
        np.testing.assert_allclose(found.iou[:40], iou.max(0))
    assert np.isfinite(found.iou).all()


def test_ties_survive_compilation_together_with_the_overlaps(rng):
    """All four anchors tie for the object; fused recomputation must not break the tie."""
    centre = rng.uniform(200, 600, 2)
    gt = np.concatenate([centre - 37.3, centre + 37.3])[None]
    shift = np.array([[5.1, 3.3], [-5.1, 3.3], [5.1, -3.3], [-5.1, -3.3]])
    anchors = gt + np.tile(shift, 2)

    @jax.jit
    def labels(gt, anchors):
        iou = jnp.round(box_ops.iou(gt, anchors), 4)
        return match(iou, jnp.ones(1, bool), positive=0.99, negative=0.98, low_quality=True).label

    np.testing.assert_array_equal(labels(jnp.asarray(gt), jnp.asarray(anchors)), [1, 1, 1, 1])


def test_an_object_that_nothing_touches_makes_nothing_positive():
    gt = jnp.asarray([[900.0, 900, 950, 950], [7, 7, 7, 7]])
    anchors = jnp.asarray([[0.0, 0, 10, 10], [5, 5, 15, 15]])
    np.testing.assert_array_equal(rpn(box_ops.iou(gt, anchors), jnp.ones(2, bool)).label, [0, 0])


def test_permuting_candidates_permutes_matches(rng):
    iou = jnp.asarray(rng.uniform(size=(6, 48)), jnp.float32)
    order = rng.permutation(48)
    gt_valid = jnp.ones(6, bool)
    found, permuted = rpn(iou, gt_valid), rpn(iou[:, order], gt_valid)
    for a, b in zip(found, permuted, strict=True):
        np.testing.assert_array_equal(a[order], b)


def test_no_objects_at_all():
    for iou in (jnp.zeros((0, 5)), jnp.ones((2, 5))):
        found = rpn(iou, jnp.zeros(len(iou), bool))
        np.testing.assert_array_equal(found.label, np.zeros(5))
        assert ((found.index >= 0) & (found.index <= 1)).all()


def test_vmap_and_gradient(rng):
    gt, anchors = jnp.asarray(rng.uniform(0, 9, (2, 3, 4))), jnp.asarray(rng.uniform(0, 9, (7, 4)))

    def labelled(gt):
        return rpn(box_ops.iou(gt, anchors), jnp.ones(3, bool))

    batched = jax.jit(jax.vmap(labelled))(gt)
    np.testing.assert_array_equal(batched.label[1], labelled(gt[1]).label)
    gradient = jax.jit(jax.grad(lambda g: labelled(g).iou.sum()))(gt[0])
    assert (gradient == 0).all()


def test_thresholds_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match=r"negative=0.7.*positive=0.3"):
        rpn(jnp.zeros((1, 1)), jnp.ones(1, bool), positive=0.3, negative=0.7)


def reference_mmdet(iou, positive, negative, least):
    """MMDetection's MaxIoUAssigner as a loop, `match_low_quality` with `gt_max_assign_all`."""
    index, label = reference(iou, positive, negative, False)
    for i in range(len(iou)):
        if iou[i].max() >= least:
            for j in np.flatnonzero(iou[i] == iou[i].max()):
                index[j], label[j] = i, 1
    return index, label


@pytest.mark.parametrize("least", [0.0, 0.3, 0.5])
def test_mmdetection_gives_an_object_its_best_candidates(rng, least):
    quality = jnp.asarray(rng.integers(1, 20, (5, 40)) / 32, jnp.float32)  # with ties
    found = match(
        quality,
        jnp.ones(5, bool),
        positive=0.55,
        negative=0.3,
        low_quality="reassign",
        low_quality_iou=least,
    )
    index, label = reference_mmdet(np.asarray(quality), 0.55, 0.3, least)
    np.testing.assert_array_equal(found.label, label)
    np.testing.assert_array_equal(found.index, index)


def test_the_least_iou_of_a_low_quality_match():
    iou = jnp.asarray([[0.29, 0.1, 0.0], [0.0, 0.2, 0.31]])
    for least, expected in ((0.0, [1, 0, 1]), (0.3, [0, 0, 1]), (0.4, [0, 0, -1])):
        found = match(
            iou,
            jnp.ones(2, bool),
            positive=0.7,
            negative=0.3,
            low_quality="keep",
            low_quality_iou=least,
        )
        np.testing.assert_array_equal(found.label, expected)


def test_unknown_low_quality_is_refused():
    with pytest.raises(ValueError, match="low_quality='best': allowed are none, keep, reassign"):
        rpn(jnp.zeros((1, 1)), jnp.ones(1, bool), low_quality="best")
