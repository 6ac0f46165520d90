"""Mask crops: bits, and what RoIs see of them, against direct sampling in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops import masks

SIDE = 32
sample_crops = jax.jit(masks.sample_crops, static_argnums=4)


def pack(crops):
    return jnp.asarray(np.packbits(np.asarray(crops, bool), axis=-1))


def blobs(rng, count):
    """Smooth shapes, one a crop."""
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE - 0.5
    a, b, c = rng.uniform(0.15, 0.45, (3, count, 1, 1))
    return (x / a) ** 2 + ((y + 0.3 * c * np.sin(5 * x)) / b) ** 2 < 1


def bilinear(crop, y, x):
    """The crop at a point in crop pixels (centres at +0.5), 0 outside, in float64."""
    total = 0.0
    for i in range(int(np.floor(y - 0.5)), int(np.floor(y - 0.5)) + 2):
        for j in range(int(np.floor(x - 0.5)), int(np.floor(x - 0.5)) + 2):
            if 0 <= i < crop.shape[0] and 0 <= j < crop.shape[1]:
                weight = (1 - abs(y - 0.5 - i)) * (1 - abs(x - 0.5 - j))
                total += weight * crop[i, j]
    return total


def direct(crop, box, roi, size, samples):
    """RoIAlign's definition, one sample after another."""
    out = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            for u in range(samples[0]):
                for v in range(samples[1]):
                    y = roi[1] + (i + (u + 0.5) / samples[0]) * (roi[3] - roi[1]) / size[0]
                    x = roi[0] + (j + (v + 0.5) / samples[1]) * (roi[2] - roi[0]) / size[1]
                    y = (y - box[1]) / (box[3] - box[1]) * crop.shape[0]
                    x = (x - box[0]) / (box[2] - box[0]) * crop.shape[1]
                    out[i, j] += bilinear(crop, y, x) / (samples[0] * samples[1])
    return out


def test_unpack_inverts_packbits(rng):
    crops = rng.uniform(size=(2, 3, 16, 16)) < 0.5
    np.testing.assert_array_equal(masks.unpack(pack(crops)), crops)


@pytest.mark.parametrize("size, samples", [((8, 8), (2, 2)), ((4, 4), (4, 4)), ((14, 7), (2, 3))])
def test_equals_direct_sampling(rng, size, samples):
    crops = blobs(rng, 2)
    boxes = np.array([[10.0, 20, 50, 45], [3.2, 4.1, 17.7, 90.3]])
    index = np.array([1, 0, 0])
    rois = np.array([[1.0, 8, 16, 95], [12.5, 18, 40, 47], [45, 40, 90, 80]])
    boxes32, rois32 = (jnp.asarray(x, jnp.float32) for x in (boxes, rois))
    seen = sample_crops(pack(crops), boxes32, jnp.asarray(index), rois32, size)
    assert seen.shape == (3, *size)
    assert (seen >= 0).all() and (seen <= 1 + 1e-6).all()
    for r, (i, roi) in enumerate(zip(index, rois, strict=True)):
        expected = direct(crops[i], boxes[i], roi, size, samples)
        np.testing.assert_allclose(seen[r], expected, atol=1.5e-4)  # rounded to 1/4096


def test_own_box_at_a_divisor_of_the_side_gives_block_means(rng):
    crops = rng.uniform(size=(1, SIDE, SIDE)) < 0.5
    box = jnp.asarray([[100.0, 50, 260, 61]])
    for size in (16, 8):
        step = SIDE // size
        seen = sample_crops(pack(crops), box, jnp.zeros(1, jnp.int32), box, (size, size))
        blocks = crops[0].reshape(size, step, size, step).mean((1, 3))
        np.testing.assert_array_equal(seen[0], blocks)


def test_a_full_mask_ends_at_its_box():
    box = jnp.asarray([[10.0, 10, 30, 30]])
    roi = jnp.asarray([[0.0, 0, 40, 40]])  # the object fills the middle half
    seen = sample_crops(pack(np.ones((1, SIDE, SIDE))), box, jnp.zeros(1, jnp.int32), roi, (8, 8))
    expected = np.zeros((8, 8))
    expected[2:6, 2:6] = 1
    np.testing.assert_allclose(seen[0], expected, atol=0.05)
    np.testing.assert_array_equal(seen[0] >= 0.5, expected)


def test_crop_then_paste_keeps_the_shape(rng):
    """A crop sampled at 28 x 28 and drawn back over its box has IoU > 0.95 with the shape."""
    y, x = (np.mgrid[:112, :112] + 0.5) / 112 - 0.5
    shape = (x / 0.45) ** 2 + ((y + 0.1 * np.sin(5 * x)) / 0.33) ** 2 < 1
    box = jnp.asarray([[0.0, 0, 90, 70]])
    seen = sample_crops(pack(shape[None]), box, jnp.zeros(1, jnp.int32), box, (28, 28))
    back = jax.image.resize(seen, (1, 112, 112), "linear") >= 0.5
    assert masks.iou(jnp.asarray(shape[None]), back)[0, 0] > 0.95


@jax.jit
def total_and_gradients(packed, box, roi):
    def total(box, roi):
        return masks.sample_crops(packed, box, jnp.zeros(1, jnp.int32), roi, (4, 4)).sum()

    return jax.value_and_grad(total, (0, 1))(box, roi)


@pytest.mark.parametrize(
    "box, roi",
    [
        ([5, 5, 5, 9], [5, 5, 9, 9]),  # the object's box has no width
        ([5, 5, 9, 9], [7, 7, 7, 7]),  # the RoI is a point
        ([9, 9, 5, 5], [5, 5, 9, 9]),
        ([np.nan] * 4, [0, 0, 4, 4]),
        ([0, 0, 4, 4], [np.inf, 0, np.nan, 4]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_degenerate_boxes_give_finite_masks_and_no_gradient(box, roi):
    packed = pack(np.ones((1, SIDE, SIDE)))
    box, roi = jnp.asarray([box], jnp.float32), jnp.asarray([roi], jnp.float32)

    total, gradients = total_and_gradients(packed, box, roi)
    assert 0 <= total <= 16
    if not (box[0, 2:] > box[0, :2]).all():
        assert total == 0  # an object without extent covers nothing
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros((1, 4)))


def test_vmap_over_images(rng):
    crops = rng.uniform(size=(2, 3, SIDE, SIDE)) < 0.5
    boxes = jnp.asarray(rng.uniform(0, 9, (2, 3, 4)) + np.array([0, 0, 10, 10]), jnp.float32)
    index = jnp.asarray([[0, 2], [1, 1]])
    rois = boxes[:, :2] + 0.5
    batched = jax.jit(jax.vmap(lambda *a: masks.sample_crops(*a, (8, 8))))(
        pack(crops), boxes, index, rois
    )
    single = sample_crops(pack(crops)[1], boxes[1], index[1], rois[1], (8, 8))
    np.testing.assert_allclose(batched[1], single, atol=1e-6)


def test_overlaps_of_tensorflow_models():
    """Its thresholded masks, pasted on a canvas of 10 x 10."""

    def canvas(rows, columns):
        out = np.zeros((10, 10), np.uint8)
        out[rows, columns] = 1
        return out

    found = jnp.asarray([canvas(slice(0, 4), slice(0, 2)), canvas(slice(1, 3), slice(1, 5))])
    truth = jnp.asarray([canvas(slice(1, 5), slice(1, 2)), canvas(slice(2, 6), slice(2, 6))])
    np.testing.assert_allclose(masks.iou(found, truth), [[1 / 3, 0], [1 / 5, 1 / 7]], rtol=1e-6)
    np.testing.assert_allclose(masks.iof(found, truth), [[3 / 8, 0], [1 / 4, 3 / 8]], rtol=1e-6)
    empty = jnp.zeros((1, 10, 10))
    assert masks.iou(empty, empty)[0, 0] == 0 and masks.iof(empty, found)[0, 0] == 0
