"""Regression losses of boxes, elementwise."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from jaxseg import precision


def l1(
    pred: Shaped[Array, "*#B"],
    target: Shaped[Array, "*#B"],
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "*B"]:
    """Absolute differences; see `smooth_l1`."""
    return smooth_l1(pred, target, 0.0, where=where)


def smooth_l1(
    pred: Shaped[Array, "*#B"],
    target: Shaped[Array, "*#B"],
    beta: float,
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "*B"]:
    """Absolute differences, quadratic below `beta`, in float32.

    Args:
      pred, target: of equal shape.
      beta: where the square passes into the line; 0 is L1.
      where: broadcasts against the inputs. Elsewhere the loss and its gradient are 0 whatever the
        inputs hold, NaN too.

    Raises:
      ValueError: beta < 0.
    """
    if beta < 0:
        raise ValueError(f"beta={beta} must not be negative.")
    difference = precision.at_least_float32(pred) - precision.at_least_float32(target)
    if where is not None:
        difference = jnp.where(where, difference, 0.0)
    absolute = jnp.abs(difference)
    if beta == 0:
        return absolute
    return jnp.where(absolute < beta, 0.5 * absolute**2 / beta, absolute - 0.5 * beta)
