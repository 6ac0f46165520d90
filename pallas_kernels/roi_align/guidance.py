"""The probability map of Shape-aware RoIAlign, sampled where the features are (Ding et al. 2019, equations 3 and 5)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def sample_probabilities(probabilities: jax.Array, fractions: Sequence[jax.Array]) -> jax.Array:
    """(B, R, Hp, Wp) maps aligned with their boxes -> float32 values at the samples, (B, R, h * s, w * s).

    `fractions`: where in its box each row and column of samples lies, 0 to 1. A map's first cell begins at 0 and its
    last ends at 1 (equation 5 with cell centres at half numbers); samples beyond the outermost centres are clamped.
    """
    by_row, by_column = (
        _interpolation(fraction, cells)
        for fraction, cells in zip(fractions, probabilities.shape[-2:], strict=True)
    )
    probabilities = probabilities.astype(by_row.dtype)
    exact = jax.lax.Precision.HIGHEST  # accelerators would round probabilities to bfloat16 first
    rows = jnp.matmul(by_row, probabilities, precision=exact)
    return jnp.matmul(rows, by_column.swapaxes(-1, -2), precision=exact)


def _interpolation(fraction: jax.Array, cells: int) -> jax.Array:
    """(..., n) -> bilinear weights (..., n, cells)."""
    at = jnp.clip(fraction * cells - 0.5, 0.0, cells - 1.0)
    return jnp.maximum(0.0, 1.0 - jnp.abs(at[..., None] - jnp.arange(cells, dtype=at.dtype)))
