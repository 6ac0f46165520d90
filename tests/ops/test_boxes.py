"""Boxes: numbers published with other frameworks' tests, inverses, and input that is degenerate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops import boxes as box_ops

TORCHVISION_FLOAT = [
    [285.3538, 185.5758, 1193.5110, 851.4551],
    [285.1472, 188.7374, 1192.4984, 851.0669],
    [279.2440, 197.9812, 1189.4746, 849.2019],
]


def random_boxes(rng, n, size=100.0):
    corners = rng.uniform(0, size, (n, 2, 2))
    return jnp.asarray(np.concatenate([corners.min(1), corners.max(1) + 1.0], 1), jnp.float32)


def test_iou_and_iof_of_detectron2():
    a = jnp.asarray([[0.0, 0, 1, 1], [0, 0, 1, 1]])
    b = jnp.asarray(
        [
            [0, 0, 1, 1],
            [0, 0, 0.5, 1],
            [0, 0, 1, 0.5],
            [0, 0, 0.5, 0.5],
            [0.5, 0.5, 1, 1],
            [0.5, 0.5, 1.5, 1.5],
        ]
    )
    iou = [1, 0.5, 0.5, 0.25, 0.25, 0.25 / 1.75]
    np.testing.assert_allclose(box_ops.iou(a, b), [iou, iou], rtol=1e-6)
    np.testing.assert_allclose(box_ops.iof(b, a)[:, 0], [1, 1, 1, 1, 1, 0.25], rtol=1e-6)


def test_iou_of_torchvision():
    a = jnp.asarray([[0, 0, 100, 100], [0, 0, 50, 50], [200, 200, 300, 300], [0, 0, 25, 25]])
    expected = [[1, 0.25, 0], [0.25, 1, 0], [0, 0, 1], [0.0625, 0.25, 0]]
    np.testing.assert_allclose(box_ops.iou(a, a[:3]), expected)
    boxes = jnp.asarray(TORCHVISION_FLOAT)
    np.testing.assert_allclose(
        box_ops.area(boxes), [604723.0806, 600965.4666, 592761.0085], rtol=1e-6
    )
    iou = box_ops.iou(boxes, boxes)
    np.testing.assert_allclose(iou[[0, 0, 1], [1, 2, 2]], [0.9933, 0.9673, 0.9737], atol=5e-5)


def test_iou_of_tensorflow():
    a = jnp.asarray([[0.0, 0, 1, 1], [5, 0, 10, 5]])
    quadrants = jnp.asarray([[0.0, 0, 5, 5], [0, 5, 5, 10], [5, 0, 10, 5], [5, 5, 10, 10]])
    np.testing.assert_allclose(box_ops.iou(a, quadrants), [[0.04, 0, 0, 0], [0, 0, 1, 0]])


def test_pairs_follow_their_batch_and_their_order(rng):
    a, b = random_boxes(rng, 6).reshape(2, 3, 4), random_boxes(rng, 8).reshape(2, 4, 4)
    iou = jax.jit(box_ops.iou)
    whole = iou(a, b)
    for i in range(2):
        np.testing.assert_array_equal(whole[i], iou(a[i], b[i]))
    order = np.array([2, 0, 1])
    np.testing.assert_array_equal(iou(a[:, order], b), whole[:, order])


@pytest.mark.parametrize("pairwise", [box_ops.iou, box_ops.iof])
def test_boxes_without_area_have_no_overlap_and_no_nan_gradient(pairwise):
    boxes = jnp.asarray([[3.0, 4, 5, 4], [3, 4, 3, 4], [5, 5, 2, 2], [0, 0, 0, 0], [2, 2, 6, 6]])
    value = pairwise(boxes[:4], boxes[:4])
    np.testing.assert_array_equal(value, np.zeros((4, 4)))
    gradient = jax.jit(jax.grad(lambda b: pairwise(b, boxes).sum()))(boxes)
    assert np.isfinite(gradient).all()


def test_decode_of_mmdetection():
    rois = jnp.asarray([[0.0, 0, 1, 1]] * 3 + [[5, 5, 5, 5]])
    deltas = jnp.asarray([[0.0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 2, -1], [0.7, -1.9, -0.5, 0.3]])
    decoded = box_ops.clip(box_ops.decode(deltas, rois), jnp.asarray([32.0, 32.0]))
    expected = [
        [0, 0, 1, 1],
        [0.1409, 0.1409, 2.8591, 2.8591],
        [0, 0.3161, 4.1945, 0.6839],
        [5, 5, 5, 5],
    ]
    np.testing.assert_allclose(decoded, expected, atol=5e-5)
    assert box_ops.decode(jnp.zeros((0, 4)), jnp.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (5, 5, 10, 10), (10, 10, 5, 5)])
def test_decode_inverts_encode(rng, weights):
    boxes, anchors = random_boxes(rng, 50), random_boxes(rng, 50)
    deltas = box_ops.encode(boxes, anchors, weights)
    # Sides may differ by more than the clamp allows in one direction only if a box is 62 times its anchor.
    decoded = box_ops.decode(deltas, anchors, weights, clip=10.0)
    np.testing.assert_allclose(decoded, boxes, atol=1e-3)


def test_decode_broadcasts_over_classes(rng):
    anchors, deltas = random_boxes(rng, 5), jnp.asarray(rng.normal(size=(5, 3, 4)), jnp.float32)
    decoded = box_ops.decode(deltas, anchors[:, None])
    np.testing.assert_array_equal(decoded[:, 1], box_ops.decode(deltas[:, 1], anchors))


def test_decode_bounds_the_sides():
    anchor = jnp.asarray([[0.0, 0, 16, 16]])
    deltas = jnp.asarray([[0.0, 0, 50, -50]])

    def sides(box):
        return (box[0, 2:] - box[0, :2]).tolist()

    assert sides(box_ops.decode(deltas, anchor)) == pytest.approx([1000, 0], abs=1e-3)
    both = box_ops.decode(deltas, anchor, clip_lower=True)
    assert sides(both) == pytest.approx([1000, 16 * 16 / 1000], abs=1e-3)


def test_encode_of_degenerate_boxes_is_finite():
    boxes = jnp.asarray([[3.0, 3, 3, 3], [0, 0, 10, 10], [5, 5, 2, 2]])
    anchors = boxes[jnp.asarray([1, 0, 0])]
    assert np.isfinite(box_ops.encode(boxes, anchors)).all()
    gradient = jax.jit(jax.grad(lambda *a: box_ops.encode(*a).sum(), (0, 1)))
    assert np.isfinite(gradient(boxes, anchors)).all()


def test_bfloat16_deltas_are_decoded_in_float32(rng):
    anchors = random_boxes(rng, 4, 1000.0)
    decoded = box_ops.decode(jnp.zeros((4, 4), jnp.bfloat16), anchors)
    assert decoded.dtype == jnp.float32
    np.testing.assert_allclose(decoded, anchors, atol=1e-3)  # bfloat16 would be off by pixels


def test_clip_takes_height_before_width():
    boxes = jnp.asarray([[-5.0, -5, 500, 500], [10, 20, 30, 40]])
    clipped = box_ops.clip(boxes, jnp.asarray([100.0, 200.0]))
    np.testing.assert_array_equal(clipped, [[0, 0, 200, 100], [10, 20, 30, 40]])
    batched = box_ops.clip(jnp.stack([boxes, boxes]), jnp.asarray([[100.0, 200.0], [300.0, 50.0]]))
    np.testing.assert_array_equal(batched[0], clipped)
    np.testing.assert_array_equal(batched[1, 0], [0, 0, 50, 300])
    per_class = box_ops.clip(
        jnp.stack([boxes, boxes])[:, :, None], jnp.asarray([[100.0, 200.0]] * 2)
    )
    np.testing.assert_array_equal(per_class[1, :, 0], clipped)


def test_hflip_of_detectron2():
    flipped = box_ops.hflip(jnp.asarray([[10, 10, 200, 300]]), 400)
    np.testing.assert_array_equal(flipped, [[200, 10, 390, 300]])
    np.testing.assert_array_equal(box_ops.hflip(flipped, 400), [[10, 10, 200, 300]])
