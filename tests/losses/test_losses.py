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


LOSSES = {
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

    full, masked = loss(pred, target), loss(bad_pred, bad_target, where=where)
    rest = np.ones(full.shape, bool)
    rest[0, 1] = False
    np.testing.assert_array_equal(masked[rest], full[rest])
    assert (masked[~rest] == 0).all()

    gradient = jax.grad(lambda p: loss(p, bad_target, where=where).sum())(bad_pred)
    expected = jax.grad(lambda p: loss(p, target).sum())(pred).at[0, 1].set(0)
    np.testing.assert_allclose(gradient, expected, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_is_computed_in_float32(name):
    loss, shape, dtype, _ = LOSSES[name]
    pred = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.bfloat16)
    target = jnp.zeros(shape[:2] if name == "softmax" else shape, dtype)
    value = loss(pred, target)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, loss(pred.astype(jnp.float32), target))
