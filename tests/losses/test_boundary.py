"""The inner edge of masks, and the loss that tells it from the rest."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.losses import boundary, mask


@pytest.mark.parametrize(("size", "times"), [(14, 1), (28, 1), (56, 2), (112, 3)])
def test_how_often_targets_are_eroded(size, times):
    assert boundary.iterations(size, size) == times


@pytest.mark.parametrize(("size", "pixels"), [(14, 52), (28, 108), (56, 432)])
def test_the_edge_of_a_mask_that_fills_its_frame(size, pixels):
    """Beyond the frame is background: the outer ring, two pixels wide at 56."""
    full = jnp.ones((size, size))
    assert boundary.inner_band(full).sum() == pixels
    assert boundary.inner_band(full, border="edge").sum() == 0


@pytest.mark.parametrize("border", boundary.BORDERS)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_erosion_is_that_of_opencv(border, times):
    """Which repeats a 3x3 square; beyond the frame there is 0, or whatever does not matter."""
    rng = np.random.default_rng(times)
    blobs = cv2.GaussianBlur(rng.normal(size=(20, 31)).astype(np.float32), (0, 0), 3) > -0.02
    more = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0} if border == "zero" else {}
    square = np.ones((3, 3), np.uint8)
    expected = cv2.erode(blobs.astype(np.uint8), square, iterations=times, **more)
    assert 0 < expected.sum() < blobs.sum()
    found = boundary.erode(jnp.asarray(blobs)[None], times, border=border)
    np.testing.assert_array_equal(found[0], expected)
    with pytest.raises(ValueError, match="border='near': allowed are zero, edge"):
        boundary.erode(jnp.asarray(blobs), times, border="near")


def test_the_loss_counts_the_edge_twice():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 3, 14, 14)), jnp.float32)
    targets = jnp.zeros((2, 3, 14, 14)).at[..., 3:11, 2:12].set(1.0)
    band = boundary.inner_band(targets)
    assert band.sum() == 2 * 3 * 32
    found = boundary.cross_entropy(logits, targets, band)
    plain = np.logaddexp(0, np.where(targets > 0, -1, 1) * np.asarray(logits, np.float64))
    expected = ((1 + np.asarray(band)) * plain).mean((2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    none = boundary.cross_entropy(logits, targets, band, 0.0)
    np.testing.assert_array_equal(none, mask.binary_cross_entropy(logits, targets))
    gradient = jax.grad(lambda x: boundary.cross_entropy(x, targets, band).sum())(logits)
    plain = jax.grad(lambda x: mask.binary_cross_entropy(x, targets).sum())(logits)
    np.testing.assert_allclose(gradient, plain * (1 + band), rtol=1e-5)
