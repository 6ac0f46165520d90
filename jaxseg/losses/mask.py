"""Losses of masks, one value a RoI."""

from __future__ import annotations

import jax
import optax
from jaxtyping import Array, Bool, Float, Shaped

from jaxseg import precision
from jaxseg.losses import classification


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
    where = None if where is None else where[..., None, None]
    pixels = classification.binary_cross_entropy(logits, targets, where=where)
    return pixels.mean(axis=(-2, -1))


def dice(logits: Shaped[Array, "*R h w"], targets: Shaped[Array, "*R h w"]) -> Float[Array, "*R"]:
    """1 - (2 sum(p t) + 1) / (sum p + sum t + 1) over a RoI's pixels, p = sigmoid(logits); in float32.

    The form of BMask (Cheng et al. 2020): plain sums below, and 1 so that an empty target has a bounded gradient.
    """
    p, t = jax.nn.sigmoid(precision.at_least_float32(logits)), precision.at_least_float32(targets)
    pixels = (-2, -1)
    return 1.0 - (2.0 * (p * t).sum(pixels) + 1.0) / (p.sum(pixels) + t.sum(pixels) + 1.0)


def squared_dice(
    logits: Shaped[Array, "*R h w"], targets: Shaped[Array, "*R h w"]
) -> Float[Array, "*R"]:
    """1 - 2 sum(p t) / (sum p^2 + sum t^2 + 1e-5) over a RoI's pixels, as RS Mask R-CNN has it; in float32."""
    p, t = jax.nn.sigmoid(precision.at_least_float32(logits)), precision.at_least_float32(targets)
    pixels = (-2, -1)
    return 1.0 - 2.0 * (p * t).sum(pixels) / ((p * p).sum(pixels) + (t * t).sum(pixels) + 1e-5)


def focal(
    logits: Shaped[Array, "*R h w"],
    targets: Shaped[Array, "*R h w"],
    *,
    gamma: float = 2.0,
    alpha: float = 0.25,
) -> Float[Array, "*R"]:
    """The mean over a RoI's pixels of the focal loss (Lin et al. 2017), in float32."""
    logits = precision.at_least_float32(logits)
    targets = targets.astype(logits.dtype)
    return optax.losses.sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma).mean((-2, -1))


def balanced_cross_entropy(
    logits: Shaped[Array, "*R h w"], targets: Shaped[Array, "*R h w"]
) -> Float[Array, "*R"]:
    """Binary cross-entropy in which the pixels of both sides of a RoI's mask count as much as the others; in float32.

    Each side's share is that of the other side's pixels, as in HED (Xie & Tu 2015).
    """
    pixels = classification.binary_cross_entropy(logits, targets)
    inside = precision.at_least_float32(targets)
    share = inside.mean((-2, -1), keepdims=True)
    return (2.0 * pixels * (inside * (1 - share) + (1 - inside) * share)).mean((-2, -1))
