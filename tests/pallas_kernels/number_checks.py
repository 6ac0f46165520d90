"""Numbers worked by hand or published, for every implementation."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels

# Detectron2 tests/layers/test_roi_align.py. There each bin takes ceil(2/4) = 1 sample.
_BEFORE = [[7.5, 8, 8.5, 9], [10, 10.5, 11, 11.5], [12.5, 13, 13.5, 14], [15, 15.5, 16, 16.5]]
_ALIGNED = [[4.5, 5, 5.5, 6], [7, 7.5, 8, 8.5], [9.5, 10, 10.5, 11], [12, 12.5, 13, 13.5]]

# mmcv tests/test_ops/test_roi_align.py: samples left of and above the first pixel's centre are clamped to it. Its first
# two images are two channels here. (image, box, values, gradient of their sum)
_TWO = [[3.0625, 0.4375], [0.4375, 0.0625]]
_MMCV = [
    (
        np.stack([[[1, 2], [3, 4]], [[4, 3], [2, 1]]], -1),
        [0, 0, 1, 1],
        np.stack([[[1, 1.25], [1.5, 1.75]], [[4, 3.75], [3.5, 3.25]]], -1),
        np.stack([_TWO, _TWO], -1),
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


class NumberChecks:
    """Numbers worked by hand or published, and what follows from the definitions."""

    implementation: Any
    channels: int  # as few as the implementation takes

    def pool(self, image, box, size, probability=None, **options):
        """One (H, W) or (H, W, 2) image, one box -> (size, size) or (size, size, 2); a cell is a pixel."""
        image = jnp.asarray(image, jnp.float32)
        channels = jnp.tile(jnp.atleast_3d(image), self.channels)[..., : self.channels]
        call = dict(strides=[1], output_size=size, implementation=self.implementation, **options)
        arguments = [channels[None]], jnp.asarray([[box]], jnp.float32), jnp.zeros((1, 1), int)
        if probability is None:
            out = pallas_kernels.multilevel_roi_align(*arguments, **call)
        else:
            guide = jnp.asarray(probability, jnp.float32)[None, None]
            out = pallas_kernels.shape_aware_roi_align(*arguments, guide, **call)
        return out[0, 0, ..., : image.shape[2] if image.ndim == 3 else 1].reshape(
            *out.shape[2:4], *image.shape[2:]
        )

    @pytest.mark.parametrize(("aligned", "expected"), [(False, _BEFORE), (True, _ALIGNED)])
    def test_detectron2_numbers(self, aligned, expected):
        options = dict(sampling_ratio=0, max_sampling_ratio=1, aligned=aligned)
        pool = jax.jit(lambda image: self.pool(image, [1, 1, 3, 3], 4, **options))
        np.testing.assert_allclose(pool(np.arange(25).reshape(5, 5)), expected, atol=1e-6)

    @pytest.mark.parametrize("case", range(len(_MMCV)))
    def test_mmcv_numbers_and_gradients(self, case):
        image, box, expected, gradient = _MMCV[case]
        image = jnp.asarray(image, jnp.float32)
        out, pull = jax.jit(lambda x: jax.vjp(lambda x: self.pool(x, box, 2), x))(image)
        np.testing.assert_allclose(out, expected, atol=1e-6)
        np.testing.assert_allclose(jax.jit(pull)(jnp.ones_like(out))[0], gradient, atol=1e-6)

    def test_an_empty_box_is_zero_where_the_ratio_is_adaptive(self):
        """Detectron2's test_empty_box; mmcv and torchvision agree."""
        pool = functools.partial(self.pool, box=[3, 4, 5, 4], size=7, sampling_ratio=0)
        pool = functools.partial(pool, max_sampling_ratio=1)
        both = jax.jit(lambda x: (pool(x), jax.grad(lambda x: pool(x).sum())(x)))
        out, gradient = both(jnp.ones((5, 5)))
        assert out.shape == (7, 7) and not out.any() and not gradient.any()

    def test_shape_aware_numbers(self):
        """F[y, x] = 10y + x; the probability is one on the left half, the upper half, or a constant."""
        y, x = np.mgrid[:8, :8]
        pool = jax.jit(lambda p: self.pool(10 * y + x, [1, 2, 6, 7], 2, p))
        plain = np.array([[29.25, 31.75], [54.25, 56.75]])
        left, upper = np.zeros((28, 28)), np.zeros((28, 28))
        left[:, :14], upper[:14] = 1, 1
        np.testing.assert_allclose(pool(left), plain * [[1, 0], [1, 0]], atol=1e-5)
        np.testing.assert_allclose(pool(upper), plain * [[1, 1], [0, 0]], atol=1e-5)
        np.testing.assert_allclose(pool(np.full((28, 28), 0.37)), 0.37 * plain, rtol=1e-6)
        assert not pool(np.zeros((28, 28))).any()

    def test_probabilities_of_one_change_no_bit(self):
        """7x7 bins of 2x2 samples and 28x28 probabilities, as in MR R-CNN."""
        image = np.random.default_rng(3).normal(size=(6, 7))
        pool = functools.partial(self.pool, box=[0.3, 0.7, 5.9, 4.4], size=7)
        ones = np.ones((28, 28))
        both = jax.jit(lambda x, ones: (pool(x), pool(x, probability=ones)))
        plain, aware = both(image, ones)
        np.testing.assert_array_equal(plain, aware)

    def test_bfloat16_accumulates_in_float32(self):
        """1024 equal boxes pour ones into one cell: a bfloat16 sum would stop growing at 256."""
        feature = jnp.ones((1, 1, 1, self.channels), jnp.bfloat16)
        boxes = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0, 1.0]), (1, 1024, 4))

        def pool(f):
            levels = jnp.zeros((1, 1024), jnp.int32)
            call = dict(strides=[1], output_size=1, sampling_ratio=1)
            return pallas_kernels.multilevel_roi_align(
                [f], boxes, levels, implementation=self.implementation, **call
            )

        out, gradient = jax.jit(
            lambda f: (pool(f), jax.grad(lambda f: pool(f).sum(dtype=jnp.float32))(f))
        )(feature)
        assert out.dtype == gradient.dtype == jnp.bfloat16
        assert (out == 1).all() and (gradient == 1024).all()

    def test_no_rois(self):
        """Alone, and where vmap adds an axis."""

        def pool(feature):
            boxes, maps = jnp.zeros((1, 0, 4)), jnp.ones((1, 0, 4, 4))
            call = dict(strides=[1], output_size=(7, 3), implementation=self.implementation)
            levels = jnp.zeros((1, 0), jnp.int32)
            return pallas_kernels.shape_aware_roi_align([feature], boxes, levels, maps, **call)

        both = jax.vmap(lambda x: (pool(x), jax.grad(lambda x: pool(x).sum())(x)))
        out, gradient = jax.jit(both)(jnp.ones((2, 1, 5, 5, self.channels)))
        assert out.shape == (2, 1, 0, 7, 3, self.channels)
        assert not gradient.any()
