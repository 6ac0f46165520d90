"""Where samples lie: what the values of test_xla do not show."""

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.roi_align import grid


def _spec(**changes) -> grid.Spec:
    spec = grid.Spec(
        shapes=((64, 64),),
        strides=(21,),
        channels=1,
        dtype=np.dtype(np.float32),
        output_size=(2, 3),
        sampling_ratio=0,
        aligned=True,
        max_sampling_ratio=4,
        rois=1,
    )
    return spec._replace(**changes)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("aligned", [True, False])
def test_guidance_is_sampled_where_the_features_are(aligned, dtype):
    """Sides that are whole numbers of cells, up to rounding: which ratio that gives must not differ between the two."""
    rng = np.random.default_rng(7)
    corner = rng.uniform(30, 900, (1, 500, 2))
    boxes = np.concatenate([corner, corner + 21 * rng.integers(1, 13, (1, 500, 2))], -1)
    boxes, levels = jnp.asarray(boxes, dtype), jnp.zeros((1, 500), jnp.int32)
    spec = _spec(aligned=aligned)
    sampled = grid.sample_grid(boxes, levels, None, spec)
    fractions = grid.sample_fractions(boxes, levels, spec)

    boxes = np.asarray(boxes, np.float64) / 21 - (0.5 if aligned else 0)
    for axis, positions in enumerate((sampled.rows, sampled.columns)):
        start, end = boxes[..., 1 - axis, None], boxes[..., 3 - axis, None]
        size = end - start if aligned else np.maximum(end - start, 1)
        exists = np.asarray(positions) != grid.DROPPED
        assert exists.any(-1).all() and not exists.all()
        expected = start + np.asarray(fractions[axis], np.float64) * size
        np.testing.assert_allclose(positions[exists], expected[exists], atol=1e-4)


def test_an_adaptive_grid_has_no_more_samples_than_it_needs():
    boxes = jnp.asarray([[[0, 0, 3.0, 2.1], [1, 1, 10.0, 3.0], [5, 5, 5.0, 9.0]]])
    spec = _spec(strides=(1,), max_sampling_ratio=3)
    sampled = grid.sample_grid(boxes, jnp.zeros((1, 3), jnp.int32), None, spec)
    for positions, bins, expected in (
        (sampled.rows, 2, [2, 1, 2]),  # bins of 1.05, 1 and 2 cells
        (sampled.columns, 3, [1, 3, 0]),  # of 1, 3 and 0
    ):
        each = (np.asarray(positions) != grid.DROPPED).reshape(1, 3, bins, 3).sum(-1)
        np.testing.assert_array_equal(each[0], np.repeat(expected, bins).reshape(3, bins))
    np.testing.assert_allclose(sampled.mean[0], [1 / 2, 1 / 3, 1])
