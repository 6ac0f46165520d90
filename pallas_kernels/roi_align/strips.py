"""RoIs of many bins as several of fewer: strips of whole rows of bins, with the level, columns and mean of their RoI.

For kernels that keep all bins of a RoI on the chip. A strip's samples span fewer cells than its RoI's, so that little
is read or computed twice.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pallas_kernels.roi_align.grid import Grid, Spec
from pallas_kernels.roi_align.operator import Implementation


def in_strips(implementation: Implementation, most_rows: Callable[[Spec], int]) -> Implementation:
    """The implementation, given strips of equal height that have at most `most_rows(spec)` rows of bins, or one."""

    def strips(spec: Spec) -> int:
        """Strips of a RoI: the smallest divisor of its rows that makes them low enough."""
        rows = spec.output_size[0]
        return min(
            (n for n in range(1, rows) if rows % n == 0 and rows // n <= most_rows(spec)),
            default=rows,
        )

    def forward(features, grid: Grid, weights, spec: Spec):
        n = strips(spec)
        out = implementation.forward(features, _cut_grid(grid, n), _cut(weights, n), _of(spec, n))
        return _joined(out, n)

    def d_features(d_out, grid: Grid, weights, spec: Spec):
        n = strips(spec)
        return implementation.d_features(
            _cut(d_out, n), _cut_grid(grid, n), _cut(weights, n), _of(spec, n)
        )

    def d_weights(features, d_out, grid: Grid, spec: Spec):
        n = strips(spec)
        out = implementation.d_weights(features, _cut(d_out, n), _cut_grid(grid, n), _of(spec, n))
        return _joined(out, n)

    return Implementation(
        forward, d_features, d_weights, lambda spec: implementation.check(_of(spec, strips(spec)))
    )


def _of(spec: Spec, strips: int) -> Spec:
    rows, columns = spec.output_size
    return spec._replace(output_size=(rows // strips, columns), rois=spec.rois * strips)


def _cut_grid(grid: Grid, strips: int) -> Grid:
    if strips == 1:
        return grid
    whole = {
        name: jnp.repeat(getattr(grid, name), strips, axis=1)
        for name in ("level", "columns", "mean")
    }
    return grid._replace(rows=_cut(grid.rows, strips), **whole)


def _cut(x: jax.Array | None, strips: int) -> jax.Array | None:
    """(B, R, rows, ...) -> (B, R * strips, rows / strips, ...)."""
    if x is None:
        return None
    batch, rois, rows, *rest = x.shape
    return x.reshape(batch, rois * strips, rows // strips, *rest)


def _joined(x: jax.Array, strips: int) -> jax.Array:
    """(B, R * strips, rows, ...) -> (B, R, rows * strips, ...)."""
    batch, rois, rows, *rest = x.shape
    return x.reshape(batch, rois // strips, rows * strips, *rest)
