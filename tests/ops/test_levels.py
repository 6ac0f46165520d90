"""The level map: the values of Detectron2's and MMDetection's formulas, which agree."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops import levels


def squares(sides):
    return jnp.asarray([[3.0, 5.0, 3.0 + s, 5.0 + s] for s in sides])


def test_known_levels():
    sides = (10, 111.9, 112, 223.9, 224, 447.9, 448, 2000)
    np.testing.assert_array_equal(levels.fpn_level(squares(sides)), [0, 0, 1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("num_levels, canonical_level", [(4, 2), (3, 1), (1, 0)])
def test_equals_the_formula(num_levels, canonical_level):
    sides = np.geomspace(1.3, 5000, 97)
    formula = np.floor(canonical_level + np.log2(sides / 224 + 1e-8))
    level = levels.fpn_level(squares(sides), num_levels=num_levels, canonical_level=canonical_level)
    assert level.dtype == jnp.int32
    np.testing.assert_array_equal(level, np.clip(formula, 0, num_levels - 1))


def test_only_the_area_counts_and_nothing_is_out_of_range():
    boxes = jnp.asarray([[[0.0, 0, 56, 896], [7, 7, 7, 900]], [[9, 9, 3, 3], [jnp.nan, 0, 1, 1]]])
    np.testing.assert_array_equal(levels.fpn_level(boxes), [[2, 0], [0, 0]])


def test_a_side_that_misses_a_bound_by_less_than_the_tolerance_belongs_to_it():
    """torchvision's floor(4 + log2(side / 224) + 1e-6)."""
    tolerance = 1 - 2**-1e-6
    sides = np.array([112, 224, 448])[:, None] * (1 - np.array([0, 5e-7, 9e-7]))
    boxes = jnp.asarray(np.concatenate([np.zeros((9, 2)), sides.reshape(-1, 1).repeat(2, 1)], 1))
    formula = np.floor(4 + np.log2(sides / 224) + 1e-6).reshape(-1) - 2
    assert formula.tolist() == [1, 1, 0, 2, 2, 1, 3, 3, 2]
    np.testing.assert_array_equal(levels.fpn_level(boxes, tolerance=tolerance), formula)
    np.testing.assert_array_equal(levels.fpn_level(boxes), [1, 0, 0, 2, 1, 1, 3, 2, 2])
