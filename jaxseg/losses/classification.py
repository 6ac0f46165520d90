"""Classification losses, elementwise, in float32."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxseg import precision


def softmax_cross_entropy(
    logits: Shaped[Array, "*B C"],
    labels: Int[Array, "*B"],
    *,
    class_weights: Sequence[float] | None = None,
    where: Bool[Array, "*B"] | None = None,
) -> Float[Array, "*B"]:
    """Cross-entropy with the softmax of `logits`.

    Args:
      logits: a value a class.
      labels: 0..C-1; any value where `where` is False.
      class_weights: a factor for each class.
      where: entries that count. The others' loss and gradient are 0 whatever they hold, NaN too.
    """
    logits = precision.at_least_float32(logits)
    if where is not None:
        logits, labels = jnp.where(where[..., None], logits, 0.0), jnp.where(where, labels, 0)
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    if class_weights is not None:
        loss *= jnp.asarray(class_weights, loss.dtype)[labels]
    return loss if where is None else jnp.where(where, loss, 0.0)


def binary_cross_entropy(
    logits: Shaped[Array, "*B"],
    targets: Shaped[Array, "*B"],
    *,
    where: Bool[Array, "*#B"] | None = None,
) -> Float[Array, "*B"]:
    """Cross-entropy of independent yes/no decisions.

    Args:
      logits: before the sigmoid.
      targets: in [0, 1]; any value where `where` is False.
      where: entries that count; broadcasts against `logits`. The others' loss and gradient are 0, whatever they hold,
        NaN too.
    """
    logits = precision.at_least_float32(logits)
    targets = targets.astype(logits.dtype)
    if where is not None:
        logits, targets = jnp.where(where, logits, 0.0), jnp.where(where, targets, 0.0)
    loss = optax.losses.sigmoid_binary_cross_entropy(logits, targets)
    return loss if where is None else jnp.where(where, loss, 0.0)
