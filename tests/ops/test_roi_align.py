"""The operators on a pyramid: levels by size, the image's own cells, and what guides the shape-aware one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from jaxseg.ops import roi_align as ops
from jaxseg.structures import Pyramid


@pytest.fixture
def pyramid(rng):
    levels = tuple(
        jnp.asarray(rng.normal(size=(1, 96 // s, 128 // s, 4)), jnp.float32) for s in (4, 8)
    )
    return Pyramid(levels=levels, strides=(4, 8), image_size=jnp.asarray([[80.0, 128.0]]))


def test_a_box_reads_the_level_of_its_size(pyramid):
    # FPN's rule: 224^2 pixels belong to the third level; with two levels, 112^2 already to the last.
    boxes = jnp.asarray([[[2.0, 2.0, 50.0, 50.0], [2.0, 2.0, 120.0, 120.0]]])
    out = ops.roi_align(pyramid, boxes, 2)
    only = [
        pyramid.replace(levels=tuple(f if k == i else 0 * f for k, f in enumerate(pyramid.levels)))
        for i in range(2)
    ]
    np.testing.assert_array_equal(out[:, 0], ops.roi_align(only[0], boxes, 2)[:, 0])
    np.testing.assert_array_equal(out[:, 1], ops.roi_align(only[1], boxes, 2)[:, 1])


def test_shape_aware_is_guided_by_the_map_of_each_box(pyramid):
    boxes = jnp.asarray([[[2.0, 2.0, 50.0, 50.0], [20.0, 10.0, 60.0, 78.0]]])

    @jax.jit
    def both(probabilities):
        plain = ops.roi_align(pyramid, boxes, 2)
        return plain, ops.shape_aware_roi_align(pyramid, boxes, probabilities, 2)

    plain, same = both(jnp.ones((1, 2, 8, 8)))
    np.testing.assert_array_equal(plain, same)
    left = jnp.broadcast_to(jnp.arange(8) < 4, (1, 2, 8, 8)).astype(jnp.float32)
    _, half = both(left)  # columns are x: the right half of each box disappears
    np.testing.assert_array_equal(half[..., 0, :], plain[..., 0, :])
    assert not half[..., 1, :].any()


@pytest.mark.parametrize(
    ("settings", "given"),
    [
        ({"aligned": False}, {"aligned": False}),
        ({"ratio": 0, "max_ratio": 3}, {"sampling_ratio": 0, "max_sampling_ratio": 3}),
        ({"own_cells": False}, {"image_size": None}),
    ],
)
def test_sampling_is_what_the_operator_is_given(pyramid, settings, given):
    boxes = jnp.asarray([[[10.0, 10, 58, 58], [100.0, 78, 128, 80]]])  # the second at the edge

    @jax.jit
    def all_three():
        expected = pallas_kernels.multilevel_roi_align(
            pyramid.levels,
            boxes,
            jnp.zeros((1, 2), jnp.int32),
            strides=(4, 8),
            output_size=2,
            **{"image_size": pyramid.image_size} | given,
        )
        pooled = ops.roi_align(pyramid, boxes, 2, sampling=ops.Sampling(**settings))
        return pooled, expected, ops.roi_align(pyramid, boxes, 2)

    pooled, expected, default = all_three()
    np.testing.assert_array_equal(pooled, expected)
    assert not np.allclose(pooled, default, atol=1e-3)
