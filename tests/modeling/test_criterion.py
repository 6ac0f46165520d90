"""Which candidates count, and what the softmax criterion makes of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from jaxseg.modeling import criterion, sampled_softmax
from jaxseg.structures import RoIs, Targets


@pytest.fixture(scope="module")
def softmax():
    model = common.base().model
    config = model.criterion
    config.rpn.samples, config.roi.samples = 8, 8
    return sampled_softmax.softmax(model)


def _targets(boxes, classes, crowds=()):
    boxes = np.asarray(boxes, np.float32).reshape(1, -1, 4)
    crowds = np.asarray(crowds, np.float32).reshape(1, -1, 4)
    arrays = Targets(
        boxes=boxes,
        classes=np.asarray(classes, np.int32).reshape(1, -1),
        valid=np.ones(boxes.shape[:2], bool),
        masks=np.zeros((*boxes.shape[:2], 8, 1), np.uint8),
        crowd_boxes=crowds,
        crowd_valid=np.ones(crowds.shape[:2], bool),
    )
    return jax.tree.map(jnp.asarray, arrays)


_ANCHORS = jnp.array(
    [[0, 0, 10, 10], [0, 0, 10, 6], [40, 40, 50, 50], [60, 60, 70, 70], [2, 0, 12, 10]], jnp.float32
)[None]


def test_rpn_selects_by_iou(softmax):
    """IoU 1 is positive, 0.6 and 2/3 lie between the thresholds, 0 is negative."""
    targets = _targets([[0, 0, 10, 10]], [2])
    chosen = softmax.rpn.select(jax.random.key(0), _ANCHORS, jnp.ones((1, 5), bool), targets)
    positive, counted = np.asarray(chosen.positive[0]), np.asarray(chosen.rois.valid[0])
    assert set(np.asarray(chosen.index[0])[positive]) == {0}
    assert set(np.asarray(chosen.index[0])[counted & ~positive]) == {2, 3}


def test_negatives_on_a_crowd_are_ignored_and_positives_are_not(softmax):
    targets = _targets([[0, 0, 10, 10]], [2], crowds=[[0, 0, 55, 55]])
    chosen = softmax.rpn.select(jax.random.key(0), _ANCHORS, jnp.ones((1, 5), bool), targets)
    counted = np.asarray(chosen.rois.valid[0])
    assert set(np.asarray(chosen.index[0])[counted]) == {0, 3}


def test_a_later_stage_asks_for_more_of_everything(softmax):
    """MMDetection's `min_pos_iou` of a stage is its IoU: an object's best candidate below it stays background."""
    first = dataclasses.replace(softmax.roi, low_quality="reassign", low_quality_iou=0.5)
    boxes = jnp.array([[[0, 0, 10, 6]]], jnp.float32)
    one = jnp.ones((1, 1), bool)
    targets = _targets([[0, 0, 10, 10]], [2])
    positive = {
        iou: bool(first.at(iou).relabel(RoIs(boxes, one, one), targets, 3).positive[0, 0])
        for iou in (0.5, 0.7)
    }
    assert positive == {0.5: True, 0.7: False}
    assert first.at(0.6, coder=(20, 20, 10, 10)).coder == (20, 20, 10, 10)


def test_rpn_loss_by_hand(softmax):
    targets = _targets([[0, 0, 10, 10]], [2])
    valid = jnp.ones((1, 5), bool)
    chosen = softmax.rpn.select(jax.random.key(0), _ANCHORS, valid, targets)
    logits = jnp.array([[1.0, 9.0, -1.0, 2.0, 9.0]])
    deltas = jnp.full((1, 5, 4), 0.5)
    terms = softmax.rpn.loss(logits, deltas, chosen)
    expected = (np.log1p(np.exp(-1.0)) + np.log1p(np.exp(-1.0)) + np.log1p(np.exp(2.0))) / 8
    assert terms.losses["rpn_objectness"] == pytest.approx(expected, rel=1e-5)
    assert terms.losses["rpn_box"] == pytest.approx(4 * 0.5 / 8, rel=1e-5)


def test_roi_selection_adds_the_ground_truth_and_puts_positives_first(softmax):
    boxes = jnp.array([[[40, 40, 50, 50], [0, 0, 9, 10], [60, 60, 70, 70]]], jnp.float32)
    proposals = RoIs(boxes, jnp.ones((1, 3), bool), jnp.ones((1, 3), bool))
    targets = _targets([[0, 0, 10, 10], [80, 80, 95, 90]], [2, 0])
    chosen = softmax.roi.select(jax.random.key(0), proposals, targets, 4)
    positive = np.asarray(chosen.positive[0])
    assert softmax.roi.max_positives == 2
    assert positive.tolist() == [True, True] + [False] * 6
    assert set(np.asarray(chosen.index[0, :2])) < {1, 3, 4}  # two of three: a proposal, two objects
    for slot in range(2):
        matched = int(chosen.matched[0, slot])
        assert chosen.classes[0, slot] == targets.classes[0, matched]
        np.testing.assert_array_equal(chosen.gt_boxes[0, slot], targets.boxes[0, matched])
    background = np.asarray(chosen.classes[0] == 4)
    assert set(np.asarray(chosen.index[0])[background]) == {0, 2}
    assert (np.asarray(chosen.classes[0])[~positive & ~background] == -1).all()


def test_roi_loss_by_hand(softmax):
    boxes = jnp.array([[[0, 0, 10, 10], [40, 40, 50, 50], [0, 0, 0, 0]]], jnp.float32)
    counted = jnp.array([[True, True, False]])
    chosen = criterion.Selection(
        rois=RoIs(boxes, counted, counted),
        index=jnp.zeros((1, 3), jnp.int32),
        classes=jnp.array([[1, 2, -1]]),
        positive=jnp.array([[True, False, False]]),
        matched=jnp.zeros((1, 3), jnp.int32),
        gt_boxes=jnp.array([[[0, 0, 20, 10], [0, 0, 1, 1], [0, 0, 1, 1]]], jnp.float32),
    )
    logits = jnp.array([[[0.0, 2.0, 1.0], [0.0, 0.0, 3.0], [jnp.nan] * 3]])
    deltas = jnp.zeros((1, 3, 2, 4)).at[0, 0, 0].set(99.0)  # not the object's class
    terms = softmax.roi.loss(logits, deltas, chosen)
    rows = np.array([[0.0, 2.0, 1.0], [0.0, 0.0, 3.0]])
    entropy = np.log(np.exp(rows).sum(1)) - [2.0, 3.0]
    assert terms.losses["classification"] == pytest.approx(entropy.mean(), rel=1e-5)
    # Wanted: dx = 10 * (10 - 5) / 10, dw = 5 * log 2; nothing in y.
    assert terms.losses["box"] == pytest.approx((5 + 5 * np.log(2)) / 2, rel=1e-5)
    np.testing.assert_array_equal(terms.mask_weights, [[1, 0, 0]])
    assert terms.log["roi_accuracy"] == 1


def test_total_is_the_weighted_sum(softmax):
    terms = criterion.Terms(
        {"box": jnp.float32(2.0)}, jnp.zeros((1, 1)), {"note": jnp.float32(7.0)}
    )
    weighted = criterion.Criterion(softmax.rpn, softmax.roi, {"box": 3.0, "mask": 0.5})
    masks = criterion.MaskTerms({"mask": jnp.float32(4.0), "extra": jnp.float32(1.0)})
    total, log = weighted.total([terms], [masks], jnp.int32(0))
    assert total == 6 + 2 + 1 and log["box"] == 2 and log["note"] == 7


def test_rpn_average_over_what_was_sampled():
    """Three of eight slots are filled: torchvision divides by three."""
    model = common.base().model
    config = model.criterion
    config.rpn.samples, config.rpn.average = 8, "sampled"
    rpn = sampled_softmax.softmax(model).rpn
    chosen = rpn.select(
        jax.random.key(0), _ANCHORS, jnp.ones((1, 5), bool), _targets([[0, 0, 10, 10]], [2])
    )
    terms = rpn.loss(jnp.zeros((1, 5)), jnp.full((1, 5, 4), 0.5), chosen)
    assert terms.losses["rpn_objectness"] == pytest.approx(np.log(2), rel=1e-5)
    assert terms.losses["rpn_box"] == pytest.approx(4 * 0.5 / 3, rel=1e-5)


@pytest.mark.parametrize(("low_quality", "positive"), [("none", []), ("keep", [1])])
def test_low_quality_matches_are_a_setting(low_quality, positive):
    """The best anchor's IoU with the only object is 0.36."""
    model = common.base().model
    config = model.criterion
    config.rpn.samples, config.rpn.low_quality = 8, low_quality
    anchors = _ANCHORS.at[0, 1].set(jnp.array([0.0, 0, 10, 10])).at[0, 0, 2].set(12.0)
    chosen = sampled_softmax.softmax(model).rpn.select(
        jax.random.key(0), anchors, jnp.ones((1, 5), bool), _targets([[0, 0, 6, 6]], [0])
    )
    assert np.asarray(chosen.index[0])[np.asarray(chosen.positive[0])].tolist() == positive
