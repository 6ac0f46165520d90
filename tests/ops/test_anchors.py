"""Anchors: the numbers of Detectron2, torchvision and MMDetection."""

import numpy as np
import pytest

from jaxseg.ops import anchors as anchor_ops

DETECTRON2 = [
    [-32, -8, 32, 8],
    [-16, -16, 16, 16],
    [-8, -32, 8, 32],
    [-64, -16, 64, 16],
    [-32, -32, 32, 32],
    [-16, -64, 16, 64],
]


def test_anchors_of_detectron2():
    anchors = anchor_ops.level_anchors((1, 2), 4, (32, 64), (0.25, 1, 4))
    assert anchors.dtype == np.float32
    np.testing.assert_allclose(anchors[:6], DETECTRON2)
    np.testing.assert_allclose(anchors[6:] - anchors[:6], [[4, 0, 4, 0]] * 6)
    middle = anchor_ops.level_anchors((1, 2), 4, (32, 64), (0.25, 1, 4), offset=0.5)
    np.testing.assert_allclose(middle, anchors + 2)


def test_anchors_of_torchvision():
    anchors = anchor_ops.level_anchors((3, 3), 5, 10, (1.0,), rounded=True)
    corners = [[x, y] for y in (-5, 0, 5) for x in (-5, 0, 5)]  # row by row
    np.testing.assert_array_equal(anchors, [[x, y, x + 10, y + 10] for x, y in corners])


def test_rounding_changes_only_fractions():
    exact = anchor_ops.base(32, (0.5, 1.0, 2.0))
    # torchvision's AnchorGenerator for size 32, as its source computes it
    rounded = [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    np.testing.assert_array_equal(anchor_ops.base(32, (0.5, 1.0, 2.0), rounded=True), rounded)
    sides = exact[:, 2:] - exact[:, :2]
    np.testing.assert_allclose(sides.prod(1), 32.0**2, rtol=1e-6)
    np.testing.assert_allclose(sides[:, 1] / sides[:, 0], [0.5, 1, 2], rtol=1e-6)


def test_anchors_of_mmdetection():
    anchors = anchor_ops.level_anchors((2, 2), 10, 10, (1.0,))
    np.testing.assert_array_equal(
        anchors, [[-5, -5, 5, 5], [5, -5, 15, 5], [-5, 5, 5, 15], [5, 5, 15, 15]]
    )
    uneven = anchor_ops.level_anchors((2, 2), (20, 10), 10, (1.0,))
    np.testing.assert_array_equal(uneven - anchors, [[0, 0, 0, 0]] * 2 + [[0, 10, 0, 10]] * 2)


def test_number_of_anchors_at_full_size():
    cells = sum(-(-800 // s) * -(-1336 // s) for s in (4, 8, 16, 32, 64))
    assert 3 * cells == pytest.approx(267_000, rel=2e-3)
    assert anchor_ops.level_anchors((25, 42), 32, 256, (0.5, 1, 2)).shape == (3 * 25 * 42, 4)


def test_centres_are_rows_before_columns():
    anchors = anchor_ops.level_anchors((2, 3), 8, (16,), (0.5, 2.0), offset=0.5)
    expected = np.repeat([[y, x] for y in (4, 12) for x in (4, 12, 20)], 2, axis=0)
    np.testing.assert_array_equal(anchor_ops.centres(anchors), expected)


@pytest.mark.parametrize("size, stride", [(8.7, 4), (16.1, 8), (90.51, 16), (360, 64)])
def test_centres_are_exact(size, stride):
    # What lies on an image's border must not slip inside by rounding.
    anchors = anchor_ops.level_anchors((1, 400), stride, size, (1 / 3, 0.5, 1.0, 2.0))
    x = anchor_ops.centres(anchors)[:, 1].reshape(400, 4)
    np.testing.assert_array_equal(x, np.arange(400)[:, None] * np.full((1, 4), stride))


@pytest.mark.parametrize(
    "sizes, ratios", [((), (1.0,)), ((-1,), (1.0,)), ((8,), (0.0,)), ((8,), ())]
)
def test_impossible_anchors_are_refused(sizes, ratios):
    with pytest.raises(ValueError, match=r"Anchor (sizes|aspect ratios) must be positive"):
        anchor_ops.base(sizes, ratios)
