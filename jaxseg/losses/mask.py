"""Losses of masks, one value a RoI."""

from __future__ import annotations

from jaxtyping import Array, Bool, Float, Shaped

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
