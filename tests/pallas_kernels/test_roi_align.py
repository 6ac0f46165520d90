"""RoIAlign against published numbers, a float64 loop, an einsum form, and its own invariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import pallas_kernels


def _reference(features, boxes, levels, strides, size, ratio, aligned, image_size=None):
    """Torchvision's rule, one sample after another, in float64. (B, R, size, size, C)."""
    batch, rois = levels.shape
    out = np.zeros((batch, rois, size, size, features[0].shape[-1]))
    for b, r in np.ndindex(batch, rois):
        level = levels[b, r]
        feature, stride = np.asarray(features[level][b], np.float64), strides[level]
        height, width = feature.shape[:2]
        if image_size is not None:
            height, width = (int(np.ceil(n / stride)) for n in image_size[b])
        x1, y1, x2, y2 = np.asarray(boxes[b, r], np.float64) / stride - (0.5 if aligned else 0)
        w, h = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        for i, j, k, m in np.ndindex(size, size, ratio, ratio):
            y = y1 + (i + (k + 0.5) / ratio) * h / size
            x = x1 + (j + (m + 0.5) / ratio) * w / size
            out[b, r, i, j] += _bilinear(feature, y, x, height, width) / ratio**2
    return out


def _bilinear(feature, y, x, height, width):
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    fy, fx = y - y0, x - x0
    top = (1 - fx) * feature[y0, x0] + fx * feature[y0, x1]
    bottom = (1 - fx) * feature[y1, x0] + fx * feature[y1, x1]
    return (1 - fy) * top + fy * bottom


def _pool(image, box, size, ratio=2, aligned=True, stride=1):
    """One (H, W) image, one box -> (size, size)."""
    image = jnp.asarray(image, jnp.float32)[None, :, :, None]
    boxes = jnp.asarray(box, jnp.float32).reshape(1, 1, 4)
    call = functools.partial(
        pallas_kernels.multilevel_roi_align,
        strides=[stride],
        output_size=size,
        sampling_ratio=ratio,
        aligned=aligned,
    )
    return jax.jit(call)([image], boxes, jnp.zeros((1, 1), jnp.int32))[0, 0, :, :, 0]


# Detectron2 tests/layers/test_roi_align.py. There each bin takes ceil(2/4) = 1 sample.
_BEFORE = [[7.5, 8, 8.5, 9], [10, 10.5, 11, 11.5], [12.5, 13, 13.5, 14], [15, 15.5, 16, 16.5]]
_ALIGNED = [[4.5, 5, 5.5, 6], [7, 7.5, 8, 8.5], [9.5, 10, 10.5, 11], [12, 12.5, 13, 13.5]]


@pytest.mark.parametrize(("aligned", "expected"), [(False, _BEFORE), (True, _ALIGNED)])
def test_detectron2_numbers(aligned, expected):
    out = _pool(np.arange(25).reshape(5, 5), [1, 1, 3, 3], 4, ratio=1, aligned=aligned)
    np.testing.assert_allclose(out, expected, atol=1e-6)


# mmcv tests/test_ops/test_roi_align.py: the samples left of and above the first pixel's centre are clamped to it.
_MMCV = [
    (
        [[1, 2], [3, 4]],
        [0, 0, 1, 1],
        [[1, 1.25], [1.5, 1.75]],
        [[3.0625, 0.4375], [0.4375, 0.0625]],
    ),
    (
        [[4, 3], [2, 1]],
        [0, 0, 1, 1],
        [[4, 3.75], [3.5, 3.25]],
        [[3.0625, 0.4375], [0.4375, 0.0625]],
    ),
    (
        [[1, 2, 5, 6], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]],
        [0, 0, 3, 3],
        [[1.9375, 4.75], [7.5625, 10.375]],
        [
            [0.47265625, 0.4296875, 0.4296875, 0.04296875],
            [0.4296875, 0.390625, 0.390625, 0.0390625],
            [0.4296875, 0.390625, 0.390625, 0.0390625],
            [0.04296875, 0.0390625, 0.0390625, 0.00390625],
        ],
    ),
]


@pytest.mark.parametrize(("image", "box", "expected", "gradient"), _MMCV)
def test_mmcv_numbers_and_gradients(image, box, expected, gradient):
    image = jnp.asarray(image, jnp.float32)
    np.testing.assert_allclose(_pool(image, box, 2), expected, atol=1e-6)
    grad = jax.grad(lambda x: _pool(x, box, 2).sum())(image)
    np.testing.assert_allclose(grad, gradient, atol=1e-6)


def test_a_box_on_half_the_image_is_half_the_box_on_the_image():
    image = np.random.default_rng(0).random((30, 30))
    half = image.reshape(15, 2, 15, 2).mean((1, 3))  # bilinear resize by one half
    whole = _pool(image, [10, 10, 20, 20], 5, ratio=2)
    # At half size a bin is one cell: its 2x2 samples average neighbours, as one sample of the half image's centre does.
    small = _pool(half, [5, 5, 10, 10], 5, ratio=1)
    np.testing.assert_allclose(whole, small, atol=1e-4)


def test_matches_one_bilinear_sample_a_bin_of_scipy_like_interpolation():
    """Equivalence with a matrix form: two 1-D interpolation matrices in one einsum (boxes inside the map)."""
    rng = np.random.default_rng(1)
    image = rng.random((20, 24))
    box, size, ratio = np.array([3.2, 2.1, 19.7, 15.4]), 5, 3

    def matrix(start, end, cells):
        at = start + (np.arange(size * ratio) + 0.5) / (size * ratio) * (end - start) - 0.5
        hat = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells)))
        return hat.reshape(size, ratio, cells).mean(1)

    expected = matrix(box[1], box[3], 20) @ image @ matrix(box[0], box[2], 24).T
    np.testing.assert_allclose(_pool(image, box, size, ratio), expected, atol=1e-5)


_STRIDES = (4, 8)


def _pyramid(rng, dtype=np.float32):
    return [rng.normal(size=(2, 24 // s * 4, 32 // s * 4, 3)).astype(dtype) for s in _STRIDES]


def _boxes(rng, rois=6):
    """Inside, outside, huge, empty and inverted boxes."""
    corner = rng.uniform(-30, 110, (2, rois, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(-5, 90, (2, rois, 2))], -1)
    boxes[0, 0] = [40, 40, 40, 40]
    boxes[0, 1] = [-500, -500, 900, 900]
    boxes[1, 0] = [200, 200, 300, 300]
    return boxes.astype(np.float32), rng.integers(0, 2, (2, rois)).astype(np.int32)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("size", [None, ((70.0, 90.0), (96.0, 33.0))])
def test_equals_the_loop(aligned, size):
    rng = np.random.default_rng(2)
    features, (boxes, levels) = _pyramid(rng), _boxes(rng)
    out = pallas_kernels.multilevel_roi_align(
        features,
        boxes,
        levels,
        strides=_STRIDES,
        output_size=3,
        aligned=aligned,
        image_size=None if size is None else jnp.asarray(size),
    )
    expected = _reference(features, boxes, levels, _STRIDES, 3, 2, aligned, size)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_gradient_is_the_transpose():
    """The map is linear in the features: <pool(F), D> = <F, pool^T(D)> exactly describes the backward."""
    rng = np.random.default_rng(3)
    features, (boxes, levels) = _pyramid(rng), _boxes(rng)
    size = jnp.asarray([[70.0, 90.0], [96.0, 120.0]])

    def pool(*f):
        return pallas_kernels.multilevel_roi_align(
            f, boxes, levels, strides=_STRIDES, output_size=(3, 2), image_size=size
        )

    pool = jax.jit(pool)
    out, transpose = jax.vjp(pool, *features)
    cotangent = rng.normal(size=out.shape).astype(np.float32)
    gradients = transpose(jnp.asarray(cotangent))
    forward = float((np.asarray(out, np.float64) * cotangent).sum())
    backward = sum(
        float((np.float64(f) * g).sum()) for f, g in zip(features, gradients, strict=True)
    )
    assert forward == pytest.approx(backward, rel=1e-5)
    # Beyond the image's own cells nothing was read, so nothing comes back.
    assert not np.asarray(gradients[0][0])[-(-70 // 4) :].any()
    check_grads(pool, tuple(jnp.asarray(f) for f in features), order=1, modes=["rev"], rtol=2e-2)


def test_padding_of_the_canvas_does_not_matter():
    rng = np.random.default_rng(4)
    features, (boxes, levels) = _pyramid(rng), _boxes(rng)
    size = jnp.full((2, 2), 64.0)
    call = dict(strides=_STRIDES, output_size=2, image_size=size)
    out = pallas_kernels.multilevel_roi_align(features, boxes, levels, **call)
    for feature, stride in zip(features, _STRIDES, strict=True):
        feature[:, 64 // stride :] = np.nan
        feature[:, :, 64 // stride :] = np.inf
    again = pallas_kernels.multilevel_roi_align(features, boxes, levels, **call)
    np.testing.assert_array_equal(out, again)


def test_bad_boxes_and_no_boxes():
    features = [np.ones((1, 8, 8, 2), np.float32)]
    bad = np.array([[[np.nan] * 4, [np.inf, 0, np.inf, 1], [3, 4, 5, 4]]], np.float32)
    call = dict(strides=[1], output_size=7)

    def total(f, boxes):
        levels = jnp.zeros(boxes.shape[:2], jnp.int32)
        return pallas_kernels.multilevel_roi_align([f], boxes, levels, **call).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.asarray(features[0]), jnp.asarray(bad))
    assert np.isfinite(value) and np.isfinite(gradient).all()
    none = pallas_kernels.multilevel_roi_align(
        features, np.zeros((1, 0, 4), np.float32), np.zeros((1, 0), np.int32), **call
    )
    assert none.shape == (1, 0, 7, 7, 2)
    assert not jax.jit(jax.grad(total))(jnp.asarray(features[0]), jnp.zeros((1, 0, 4))).any()


def test_bfloat16_accumulates_in_float32():
    """1024 equal boxes pour ones into one cell: a bfloat16 sum would stop growing at 256."""
    feature = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    boxes = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0, 1.0]), (1, 1024, 4))

    def total(f):
        levels = jnp.zeros((1, 1024), jnp.int32)
        return pallas_kernels.multilevel_roi_align(
            [f], boxes, levels, strides=[1], output_size=1
        ).sum(dtype=jnp.float32)

    gradient = jax.jit(jax.grad(total))(feature)
    assert gradient.dtype == jnp.bfloat16 and float(gradient[0, 0, 0, 0]) == 1024


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"implementation": "cuda"}, "allowed are xla"),
        ({"strides": [4]}, "2 feature levels but 1 strides"),
        ({"boxes": np.zeros((2, 3))}, "boxes must be"),
        (
            {"boxes": np.zeros((1, 3, 4)), "levels": np.zeros((1, 3), int)},
            "of 1 images, features of 2",
        ),
        ({"sampling_ratio": -1}, "at least 0"),
        ({"features": [np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4, 2))]}, "with one B and C"),
    ],
)
def test_bad_arguments(change, message):
    arguments = dict(
        features=[np.zeros((2, 4, 4, 1), np.float32), np.zeros((2, 2, 2, 1), np.float32)],
        boxes=np.zeros((2, 3, 4)),
        levels=np.zeros((2, 3), int),
        strides=[4, 8],
        output_size=2,
    )
    with pytest.raises(ValueError, match=message):
        pallas_kernels.multilevel_roi_align(**(arguments | change))
