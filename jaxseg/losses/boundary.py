"""The boundary-region loss of BRefine (2022, eq. 1 and 2): cross-entropy in which a mask's inner edge counts more."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxseg.losses import classification

BORDERS = ("zero", "edge")


def iterations(height: int, width: int, ratio: float = 0.02) -> int:
    """How often a mask of that size is eroded: `ratio` of its diagonal, at least once (Boundary IoU's rule)."""
    return max(1, round(ratio * math.hypot(height, width)))


def erode(
    masks: Shaped[Array, "*B h w"], times: int, *, border: str = "zero"
) -> Float[Array, "*B h w"]:
    """Masks of 0 and 1, eroded by 3 x 3 squares.

    Args:
      masks: anything but 0 is foreground.
      times: how often.
      border: beyond the frame is background (zero), or whatever lies at it (edge), as cv2.erode has it by default.

    Raises:
      ValueError: another border.
    """
    if border not in BORDERS:
        raise ValueError(f"border={border!r}: allowed are {', '.join(BORDERS)}.")
    kept = (jnp.asarray(masks) != 0).astype(jnp.float32)
    frame = ((0, 0),) * (kept.ndim - 2) + ((times, times),) * 2
    kept = jnp.pad(kept, frame, constant_values=0.0 if border == "zero" else 1.0)
    size = 2 * times + 1  # of the square that does what `times` of 3 x 3 do
    window = (1,) * (kept.ndim - 2) + (size, size)
    return jax.lax.reduce_window(kept, jnp.inf, jax.lax.min, window, (1,) * kept.ndim, "VALID")


def inner_band(
    masks: Shaped[Array, "*B h w"], *, ratio: float = 0.02, border: str = "zero"
) -> Float[Array, "*B h w"]:
    """Eq. 1, G_O - G_E: 1 on the part of a mask that its erosion takes away, as wide as its frame's size asks for."""
    kept = (jnp.asarray(masks) != 0).astype(jnp.float32)
    return kept - erode(masks, iterations(*masks.shape[-2:], ratio), border=border)


def cross_entropy(
    logits: Shaped[Array, "*R h w"],
    targets: Shaped[Array, "*R h w"],
    band: Shaped[Array, "*R h w"],
    weight: float = 1.0,
) -> Float[Array, "*R"]:
    """Eq. 2 for each RoI: the mean over its pixels of (1 + weight band) times the binary cross-entropy, in float32."""
    pixels = classification.binary_cross_entropy(logits, targets)
    return ((1.0 + weight * band) * pixels).mean(axis=(-2, -1))
