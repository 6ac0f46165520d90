"""Every implementation under jax's transformations, compared with plain calls one after another."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from tests.pallas_kernels import cases
from tests.pallas_kernels.checks import assert_close


def _stack(trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


class CompositionChecks:
    """On two sets of boxes, and two of features and probabilities."""

    implementation: Any
    channels: int  # as few as the implementation takes

    @classmethod
    def loss(cls, features, probabilities, boxes):
        case = cases.tiny(cls.channels)
        out = cases.aware(case, cls.implementation, [features], boxes, probabilities)
        return (out * case.cotangent).sum()

    @classmethod
    def gradients(cls, features, probabilities, boxes):
        """((features, probabilities) gradients, value)"""
        return jax.grad(lambda *x: (cls.loss(*x, boxes),) * 2, (0, 1), has_aux=True)(
            features, probabilities
        )

    @classmethod
    def inputs(cls):
        case = cases.tiny(cls.channels)
        features = jnp.stack([case.features[0], case.features[0][::-1] + 1])
        probabilities = jnp.stack([case.probabilities, case.probabilities[:, ::-1] / 2])
        return features, probabilities, jnp.stack([case.boxes, case.boxes * 0.75 + 0.5])

    @classmethod
    @functools.cache
    def expected(cls):
        """`gradients` of each pair, stacked on two axes: of boxes, and of features."""
        one = jax.jit(cls.gradients)
        features, probabilities, boxes = cls.inputs()
        each = [[one(f, p, b) for f, p in zip(features, probabilities, strict=True)] for b in boxes]
        return _stack([_stack(row) for row in each])

    def test_vmap_over_some_arguments_and_over_others(self):
        """Outside over the boxes alone, with one set of features; inside over the features and probabilities."""
        inside = jax.vmap(self.gradients, (0, 0, None))
        both = jax.jit(jax.vmap(inside, (None, None, 0)))
        assert_close(both(*self.inputs()), self.expected(), 1e-5)

    def test_gradient_of_a_checkpointed_scan(self):
        """Summed over the boxes, as when heads run one after another; what the backward needs is computed again."""
        features, probabilities, boxes = self.inputs()

        def total(features, probabilities):
            def add(total, boxes):
                return total + jax.checkpoint(self.loss)(features, probabilities, boxes), None

            return jax.lax.scan(add, jnp.float32(0), boxes)[0]

        value, gradients = jax.jit(jax.value_and_grad(total, (0, 1)))(features[0], probabilities[0])
        d, values = jax.tree.map(lambda x: x[:, 0].sum(0), self.expected())
        assert_close((value, gradients), (values, d), 1e-5)
