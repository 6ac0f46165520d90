"""The differentiable operator, made of an implementation's three functions.

RoIAlign is linear in the features, and Shape-aware RoIAlign in the features and in its weights, so three linear maps
are all there is: the value, and its transpose with respect to either.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.roi_align.grid import Grid, Spec, narrow


def _supports_everything(spec: Spec) -> None:
    del spec


class Implementation(NamedTuple):
    """One way to compute it. Arrays have the batch as leading axis; sums are float32 at least.

    `weights` is None (RoIAlign) or (B, R, h * samples, w * samples), a factor for each sample (Shape-aware RoIAlign).
    """

    forward: Callable  # (features, grid, weights, spec) -> (B, R, h, w, C)
    d_features: Callable  # (d_out, grid, weights, spec) -> one (B, H_l, W_l, C) a level
    d_weights: Callable  # (features, d_out, grid, spec) -> as weights
    check: Callable[[Spec], None] = _supports_everything  # NotImplementedError says what is not


def of_kernels(
    forward: Callable, d_features: Callable, d_weights: Callable, check: Callable[[Spec], None]
) -> Implementation:
    """An implementation by kernels: functions of (spec, *arrays), which get tables in 32 bits and no axis of a vmap."""

    def images(function, spec):
        return images_for_vmap(functools.partial(function, spec))

    return Implementation(
        lambda features, grid, weights, spec: images(forward, spec)(
            features, narrow(grid), narrow(weights)
        ),
        lambda d_out, grid, weights, spec: images(d_features, spec)(
            d_out, narrow(grid), narrow(weights)
        ),
        lambda features, d_out, grid, spec: images(d_weights, spec)(features, d_out, narrow(grid)),
        check,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def roi_align(features, grid: Grid, weights, spec: Spec, implementation: Implementation):
    """(B, R, h, w, C): for each bin, the mean of its bilinear samples, each times its weight."""
    return implementation.forward(features, grid, weights, spec)


def _fwd(features, grid, weights, spec, implementation):
    out = implementation.forward(features, grid, weights, spec)
    # The features are needed again only for the gradient of the weights.
    kept = None if weights is None else features
    return out, (kept, grid, weights)


def _bwd(spec, implementation, residuals, d_out):
    features, grid, weights = residuals
    d_features = implementation.d_features(d_out, grid, weights, spec)
    d_weights = None
    if weights is not None:
        d_weights = implementation.d_weights(features, d_out, grid, spec).astype(weights.dtype)
    return d_features, None, d_weights


roi_align.defvjp(_fwd, _bwd)


def images_for_vmap(function: Callable) -> Callable:
    """`function`, with vmap's axis merged into the batch: a kernel takes it as more images."""
    call = jax.custom_batching.custom_vmap(function)

    @call.def_vmap
    def _rule(axis_size, in_batched, *args):
        def merge(x, batched):
            if not batched:
                x = jnp.broadcast_to(x[None], (axis_size, *x.shape))
            return x.reshape(axis_size * x.shape[1], *x.shape[2:])

        out = call(*jax.tree.map(merge, args, tuple(in_batched)))
        out = jax.tree.map(
            lambda x: x.reshape(axis_size, x.shape[0] // axis_size, *x.shape[1:]), out
        )
        return out, jax.tree.map(lambda _: True, out)

    return call
