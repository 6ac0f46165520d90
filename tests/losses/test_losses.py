"""Losses: known values, precision, and entries that are masked out whatever they hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.losses import box, classification, mask


def test_smooth_l1_by_hand():
    pred, target = jnp.asarray([0.0, 0.5, 3.0, -2.0]), jnp.zeros(4)
    np.testing.assert_allclose(box.l1(pred, target), [0, 0.5, 3, 2])
    np.testing.assert_allclose(box.smooth_l1(pred, target, 1.0), [0, 0.125, 2.5, 1.5])
    np.testing.assert_allclose(box.smooth_l1(pred, target, 0.0), box.l1(pred, target))
    # torchvision's beta of 1/9: 0.5 lies on the line
    np.testing.assert_allclose(box.smooth_l1(pred, target, 1 / 9)[1], 0.5 - 1 / 18, rtol=1e-6)


def test_smooth_l1_gradient():
    gradient = jax.vmap(jax.grad(lambda d: box.smooth_l1(d, jnp.zeros(()), 0.5)))
    deltas = jnp.asarray([-2.0, -0.25, 0.0, 0.25, 2.0])
    np.testing.assert_allclose(gradient(deltas), [-1, -0.5, 0, 0.5, 1])
    with pytest.raises(ValueError, match=r"beta=-1"):
        box.smooth_l1(deltas, deltas, -1)


def test_cross_entropy_of_mmdetection():
    logits, label = jnp.asarray([[100.0, -100.0]]), jnp.asarray([1])
    assert classification.softmax_cross_entropy(logits, label)[0] == 200
    weighted = classification.softmax_cross_entropy(logits, label, class_weights=(0.8, 0.2))
    assert weighted[0] == pytest.approx(40)


def test_binary_cross_entropy_by_hand():
    logits = jnp.asarray([0.0, 2.0, -200.0])
    targets = jnp.asarray([1, 0, 1])
    expected = [np.log(2), np.log1p(np.exp(2)), 200]
    np.testing.assert_allclose(
        classification.binary_cross_entropy(logits, targets), expected, rtol=1e-6
    )


def test_mask_loss_is_the_mean_of_its_pixels():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 4)), jnp.float32)
    targets = logits > 0.3
    pixels = classification.binary_cross_entropy(logits, targets)
    loss = mask.binary_cross_entropy(logits, targets)
    assert loss.shape == (2, 3)
    np.testing.assert_allclose(loss, pixels.mean((2, 3)), rtol=1e-6)


def _pixels(seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (2, 3, 5, 4)).astype(np.float32)
    targets = (rng.uniform(size=logits.shape) < 0.3).astype(np.float32)
    return logits, targets


@pytest.mark.parametrize("name", ["squared_dice", "focal", "balanced_cross_entropy"])
def test_mask_losses_against_numpy(name):
    logits, targets = _pixels()
    p, t = 1 / (1 + np.exp(-np.float64(logits))), np.float64(targets)
    right = np.where(t > 0, p, 1 - p)
    inside = t.mean((2, 3), keepdims=True)
    expected = {
        "squared_dice": 1
        - 2 * (p * t).sum((2, 3)) / ((p**2).sum((2, 3)) + (t**2).sum((2, 3)) + 1e-5),
        "focal": (-np.where(t > 0, 0.25, 0.75) * (1 - right) ** 2 * np.log(right)).mean((2, 3)),
        "balanced_cross_entropy": (-2 * np.where(t > 0, 1 - inside, inside) * np.log(right)).mean(
            (2, 3)
        ),
    }[name]
    found = getattr(mask, name)(jnp.asarray(logits), jnp.asarray(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["squared_dice", "focal", "balanced_cross_entropy"])
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_mask_losses_are_finite_for_sure_and_for_empty_masks(name, fill):
    loss = getattr(mask, name)
    targets = jnp.full((1, 1, 5, 4), fill)
    run = jax.jit(jax.value_and_grad(lambda x: loss(x, targets).sum()))
    for logits in (jnp.full(targets.shape, 80.0), jnp.full(targets.shape, -80.0)):
        value, gradient = run(logits)
        assert np.isfinite(value) and np.isfinite(gradient).all()
    right = jnp.where(targets > 0, 80.0, -80.0)
    # Of an empty mask there is nothing to overlap with.
    expected = 1 if name == "squared_dice" and not fill else 0
    assert loss(right, targets)[0, 0] == pytest.approx(expected, abs=1e-6)


def _iou_losses(a, b):
    """1 - IoU, and what GIoU, DIoU and CIoU add, from the formulas, in float64."""
    a, b = np.float64(a), np.float64(b)
    w, h = (np.minimum(a[i + 2], b[i + 2]) - np.maximum(a[i], b[i]) for i in (0, 1))
    shared = max(w, 0) * max(h, 0)
    area = lambda x: (x[2] - x[0]) * (x[3] - x[1])  # noqa: E731
    union = area(a) + area(b) - shared
    low, high = np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])
    hull, diagonal = np.prod(high - low), ((high - low) ** 2).sum()
    iou = shared / union
    apart = (((a[:2] + a[2:] - b[:2] - b[2:]) / 2) ** 2).sum() / diagonal
    angle = [np.arctan((x[2] - x[0]) / (x[3] - x[1])) for x in (a, b)]
    v = 4 / np.pi**2 * (angle[0] - angle[1]) ** 2
    shape = v * v / (1 - iou + v) if v else 0
    return {
        "giou": 1 - iou + (hull - union) / hull,
        "diou": 1 - iou + apart,
        "ciou": 1 - iou + apart + shape,
    }


@pytest.mark.parametrize("name", ["giou", "diou", "ciou"])
def test_iou_losses(name):
    rng = np.random.default_rng(0)
    low = rng.uniform(-5, 5, (2, 40, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.5, 8, low.shape)], -1).astype(np.float32)
    boxes = np.concatenate([boxes, boxes[:, :1], [[[0, 0, 2, 2]], [[7, 5, 8, 9]]]], 1)
    boxes[1, 40] = boxes[0, 40]  # the same, and far apart
    loss = jax.jit(getattr(box, name))
    found = loss(jnp.asarray(boxes[0], jnp.float32), jnp.asarray(boxes[1], jnp.float32))
    expected = [_iou_losses(a, b)[name] for a, b in zip(*boxes, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert found[40] == 0


@pytest.mark.parametrize("name", ["giou", "diou", "ciou"])
def test_iou_losses_of_boxes_without_extent_have_finite_gradients(name):
    boxes = [[0, 0, 0, 0], [3, 3, 3, 8], [5, 5, 4, 4], [0, 0, 2, 2], [1e4, 1e4, 2e4, 2e4]]
    pred, target = (jnp.asarray(x, jnp.float32) for x in (boxes, [[0, 0, 2, 2]] * 4 + [[0] * 4]))
    run = jax.jit(jax.value_and_grad(lambda x: getattr(box, name)(x, target).sum()))
    value, gradient = run(pred)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["giou", "diou", "ciou"])
def test_iou_losses_pull_boxes_apart_together(name):
    far, target = jnp.array([10.0, 10.0, 12.0, 12.0]), jnp.array([0.0, 0.0, 2.0, 2.0])
    gradient = jax.jit(jax.grad(getattr(box, name)))(far, target)
    assert gradient[:2].sum() > 0


LOSSES = {
    **{
        name: (getattr(box, name), (2, 3, 4), jnp.float32, (2, 3))
        for name in ("giou", "diou", "ciou")
    },
    "l1": (box.l1, (2, 3, 4), jnp.float32, (2, 3, 1)),
    "smooth_l1": (lambda *a, **k: box.smooth_l1(*a, 0.1, **k), (2, 3), jnp.float32, (2, 3)),
    "softmax": (classification.softmax_cross_entropy, (2, 3, 5), jnp.int32, (2, 3)),
    "binary": (classification.binary_cross_entropy, (2, 3), jnp.float32, (2, 3)),
    "mask": (mask.binary_cross_entropy, (2, 3, 4, 4), jnp.float32, (2, 3)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_masked_out_may_hold_anything(name):
    loss, shape, dtype, where_shape = LOSSES[name]
    rng = np.random.default_rng(1)
    pred = jnp.asarray(rng.normal(size=shape), jnp.float32)
    target = jnp.asarray(rng.integers(0, 2, shape[:2] if name == "softmax" else shape), dtype)
    where = jnp.ones(where_shape, bool).at[0, 1].set(False)
    bad_pred = pred.at[0, 1].set(jnp.nan)
    bad_target = target.at[0, 1].set(-7 if name == "softmax" else jnp.nan)

    full, masked = jax.jit(loss)(pred, target), jax.jit(loss)(bad_pred, bad_target, where=where)
    rest = np.ones(full.shape, bool)
    rest[0, 1] = False
    np.testing.assert_array_equal(masked[rest], full[rest])
    assert (masked[~rest] == 0).all()

    gradient = jax.jit(jax.grad(lambda p: loss(p, bad_target, where=where).sum()))(bad_pred)
    expected = jax.jit(jax.grad(lambda p: loss(p, target).sum()))(pred).at[0, 1].set(0)
    np.testing.assert_allclose(gradient, expected, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_is_computed_in_float32(name):
    loss, shape, dtype, _ = LOSSES[name]
    pred = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.bfloat16)
    target = jnp.zeros(shape[:2] if name == "softmax" else shape, dtype)
    value = loss(pred, target)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, loss(pred.astype(jnp.float32), target))
