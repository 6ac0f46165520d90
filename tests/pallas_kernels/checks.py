"""The tests that every implementation must pass; a test module subclasses them with its own."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from pallas_kernels.roi_align.arg_specs import ArgSpec
from tests.pallas_kernels import cases


def assert_close(actual, expected, tolerance):
    """`tolerance` relative to the largest number expected in an array."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        np.testing.assert_allclose(
            a, e, rtol=0, atol=tolerance * max(1.0, np.abs(e).max(initial=0))
        )


def assert_same_bits(actual, expected):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, e)


class OracleChecks:
    """Values and gradients against `oracles`, on `case`."""

    implementation: Any
    case: cases.Case
    tolerance = 2e-5  # relative to the largest number expected
    deterministic = True  # are the gradients of the features the same bits each time?

    def assert_same(self, one, other):
        if self.deterministic:
            assert_same_bits(one, other)
        else:
            assert_close(one, other, self.tolerance)

    @pytest.fixture
    def results(self) -> cases.Results:
        return cases.first_run(self.case, self.implementation)

    def test_equals_the_loop(self, results):
        assert_close((results.plain, results.aware), cases.by_loop(self.case), self.tolerance)

    def test_equals_the_matrices(self, results):
        expected = cases.by_matrices(self.case)
        assert_close(results.plain, expected.plain, self.tolerance)
        assert_close(results.aware, expected.aware, self.tolerance)

    def test_feature_gradients_are_the_transposed_matrices(self, results):
        expected = cases.by_matrices(self.case)
        assert_close(results.d_features, expected.d_features, self.tolerance)
        assert_close(results.aware_d_features, expected.aware_d_features, self.tolerance)

    def test_probability_gradients(self, results):
        expected = cases.by_matrices(self.case).d_probabilities
        assert_close(results.d_probabilities, expected, self.tolerance)

    def test_dtypes_are_those_of_the_arguments(self, results):
        feature, guide = self.case.features[0].dtype, self.case.probabilities.dtype
        arrays = results.plain, results.aware, *results.d_features, *results.aware_d_features
        assert {a.dtype for a in arrays} == {feature}
        assert results.d_probabilities.dtype == guide

    def test_boxes_get_no_gradient(self, results):
        assert not results.d_boxes.any() and not results.aware_d_boxes.any()
        assert results.d_boxes.shape == self.case.boxes.shape

    def test_a_second_run_gives_the_same_bits(self, results):
        self.assert_same(cases.run(self.case, self.implementation), results)

    def test_rois_without_samples_add_nothing(self, results):
        """They may lie anywhere between the others: the gradient has the same bits."""
        outside = np.array([1e4, 1e4, 1e4 + 9, 1e4 + 9], np.float32)
        order = np.roll(np.arange(self.case.levels.shape[1]), 1)

        def with_one_outside(case):
            boxes = case.boxes.copy()
            boxes[:, 0] = outside
            return case.replace(boxes=boxes)

        first = with_one_outside(self.case)
        last = _permuted(first, np.roll(order, -2))
        one, other = (cases.run(c, self.implementation) for c in (first, last))
        assert not one.plain[:, 0].any() and not one.aware[:, 0].any()
        assert not other.plain[:, -1].any() and not other.d_probabilities[:, -1].any()
        self.assert_same(one.d_features, other.d_features)
        self.assert_same(one.aware_d_features, other.aware_d_features)

    def test_the_order_of_the_rois_is_theirs(self, results):
        """Each gets the same bits at another place, and the summed gradient the same up to rounding."""
        order = np.random.default_rng(5).permutation(self.case.levels.shape[1])
        other = cases.run(_permuted(self.case, order), self.implementation)
        assert_same_bits(other.plain, results.plain[:, order])
        assert_same_bits(other.aware, results.aware[:, order])
        assert_same_bits(other.d_probabilities, results.d_probabilities[:, order])
        assert_close(other.d_features, results.d_features, self.tolerance)


def _permuted(case: cases.Case, order) -> cases.Case:
    names = ("boxes", "levels", "probabilities", "cotangent")
    return case.replace(**{name: getattr(case, name)[:, order] for name in names})


def check_arg_spec(spec: ArgSpec, implementation, tolerance: float) -> None:
    """On random boxes of a real call: agrees with xla in float32, and the backward gives the same bits twice."""

    def run(args, implementation):
        def call(features, probabilities):
            args_ = args._replace(features=features, probabilities=probabilities)
            return spec.call(args_, implementation)

        out, pull = jax.vjp(call, args.features, args.probabilities)
        return out, pull(args.d_out.astype(out.dtype))

    run = jax.jit(run, static_argnums=1)
    args = spec.random_args()
    results = run(args, implementation)
    assert_same_bits(run(args, implementation)[1], results[1])
    assert_close(results, run(args._replace(features=_float32(args.features)), "xla"), tolerance)


def _float32(features):
    return tuple(f.astype(np.float32) for f in features)
