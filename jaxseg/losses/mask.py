"""Losses of masks, one value a RoI."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Shaped

from jaxseg import precision


def binary_cross_entropy(
    logits: Shaped[Array, "*R h w"],
    targets: Shaped[Array, "*R h w"],
    *,
    where: Bool[Array, "*R"] | None = None,
) -> Float[Array, "*R"]:
    """The mean over a RoI's pixels of the binary cross-entropy, in float32.

    Args:
      logits: before the sigmoid.
      targets: in [0, 1].
      where: RoIs that count. The others' loss and gradient are 0 whatever they hold, NaN too.
    """
    logits = precision.at_least_float32(logits)
    targets = targets.astype(logits.dtype)
    if where is not None:
        logits = jnp.where(where[..., None, None], logits, 0.0)
        targets = jnp.where(where[..., None, None], targets, 0.0)
    loss = optax.losses.sigmoid_binary_cross_entropy(logits, targets).mean(axis=(-2, -1))
    return loss if where is None else jnp.where(where, loss, 0.0)
