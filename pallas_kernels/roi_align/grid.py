"""Where each RoI samples its feature map: the geometry, computed once and shared by every implementation.

The samples of a RoI lie on a separable grid, so two short tables describe it: a position for each row of samples and
one for each column. A sample that counts as zero has the position DROPPED, which is further than one cell from every
cell, so that its bilinear weights are zero without a case of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

DROPPED = -4.0


class Spec(NamedTuple):
    """What is static about a call."""

    shapes: tuple[tuple[int, int], ...]  # (H, W) of each level
    strides: tuple[int, ...]  # image pixels per cell of each level
    channels: int
    dtype: np.dtype  # of the features, their gradients and the output
    output_size: tuple[int, int]  # bins (h, w)
    sampling_ratio: int  # samples per bin and axis; 0: one per cell that the bin spans
    aligned: bool
    max_sampling_ratio: int  # of an adaptive grid
    rois: int  # an image

    @property
    def samples(self) -> int:
        """Sample slots per bin and axis; an adaptive grid drops those it does not need."""
        return self.sampling_ratio or self.max_sampling_ratio


class Grid(NamedTuple):
    """The sampling grids of (B, R) RoIs, in cells of their own level (cell centres at whole numbers)."""

    level: jax.Array  # (B, R) int32
    rows: jax.Array  # (B, R, h * samples) float32: y, or DROPPED
    columns: jax.Array  # (B, R, w * samples) float32: x, or DROPPED
    mean: jax.Array  # (B, R) float32: one over the number of samples of a bin


def sample_grid(
    boxes: jax.Array, levels: jax.Array, image_size: jax.Array | None, spec: Spec
) -> Grid:
    """The grids of (B, R, 4) boxes. `image_size` (B, 2): samples are clamped to its cells instead of the map's."""
    level, stride, start, size = _in_cells(boxes, levels, spec)
    cells = jnp.asarray(spec.shapes, jnp.int32)[level]  # (B, R, 2)
    if image_size is not None:
        own = jnp.ceil(image_size[:, None] / stride[..., None]).astype(jnp.int32)
        cells = jnp.clip(own, 1, cells)

    ratio = _ratios(size, spec)
    axes = []
    for axis, bins in enumerate(spec.output_size):
        fraction, exists = _fractions(bins, ratio[..., axis], spec.samples)
        position = start[..., axis, None] + fraction.astype(size.dtype) * size[..., axis, None]
        axes.append(_clamp(position, exists, cells[..., axis, None]))
    mean = 1.0 / jnp.maximum(ratio[..., 0] * ratio[..., 1], 1).astype(size.dtype)
    return Grid(level, *axes, jnp.broadcast_to(mean, level.shape))


def sample_fractions(boxes: jax.Array, levels: jax.Array, spec: Spec) -> Sequence[jax.Array]:
    """Where in their box the rows and columns of samples lie, 0 to 1: (1, 1, n) or, if adaptive, (B, R, n) each."""
    *_, size = _in_cells(boxes, levels, spec)  # to the last bit as `sample_grid` has it
    ratio = _ratios(size, spec)
    return [
        jnp.asarray(_fractions(bins, ratio[..., axis], spec.samples)[0], size.dtype)
        for axis, bins in enumerate(spec.output_size)
    ]


def _in_cells(boxes: jax.Array, levels: jax.Array, spec: Spec):
    """The boxes on their own levels: level and its stride (B, R), start and size (B, R, 2) in cells, y first."""
    level = jnp.clip(levels.astype(jnp.int32), 0, len(spec.shapes) - 1)
    boxes = boxes.astype(jnp.promote_types(boxes.dtype, jnp.float32))
    stride = jnp.asarray(spec.strides, boxes.dtype)[level]
    boxes = boxes / stride[..., None] - (0.5 if spec.aligned else 0.0)
    start = boxes[..., 1::-1]
    size = boxes[..., 3:1:-1] - start
    if not spec.aligned:
        size = jnp.maximum(size, 1.0)
    return level, stride, start, size


def _ratios(size: jax.Array, spec: Spec):
    """(B, R, 2) sizes in cells -> samples per bin and axis: (B, R, 2) if adaptive, else a NumPy constant (1, 1, 2).

    Adaptive: as many as a bin spans cells, none if it is empty.
    """
    if spec.sampling_ratio:
        return np.full((1, 1, 2), spec.sampling_ratio)
    spans = jnp.ceil(size / jnp.asarray(spec.output_size, size.dtype))
    return jnp.clip(jnp.nan_to_num(spans), 0, spec.max_sampling_ratio).astype(jnp.int32)


def _fractions(bins: int, ratio, samples: int):
    """`ratio` samples spread evenly over each of `bins`, in `samples` slots: (..., bins * samples), and which exist.

    Constants stay constants: computed under jit, a division by `bins` could round otherwise than without.
    """
    slot = np.tile(np.arange(samples), bins)
    of_bin = np.repeat(np.arange(bins), samples)
    ratio = ratio[..., None]
    most = np if isinstance(ratio, np.ndarray) else jnp
    return (of_bin + (slot + 0.5) / most.maximum(ratio, 1)) / bins, slot < ratio


def _clamp(position: jax.Array, exists: jax.Array, cells: jax.Array) -> jax.Array:
    """Torchvision's border rule: further than one cell off the map is dropped, closer is clamped to the last cell."""
    last = (cells - 1).astype(position.dtype)
    inside = exists & (position >= -1.0) & (position <= last + 1.0)  # false for NaN
    return jnp.where(inside, jnp.clip(position, 0.0, last), DROPPED)


def narrow(tables):
    """Grids and weights in 32 bits, which is what kernels compute in, also under jax_enable_x64."""

    def to_32_bits(x):
        return x.astype(jnp.int32 if jnp.issubdtype(x.dtype, jnp.integer) else jnp.float32)

    return jax.tree.map(to_32_bits, tables)
