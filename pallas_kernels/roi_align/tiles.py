"""Which RoIs a tile of the feature map gets gradient from: what lets a program own its tile, and no one add atomically.

A gradient by scatter needs atomic additions, whose order (and so whose last bits) changes from run to run. Turned
round, each program owns a tile of the map and gathers from the RoIs that sampled it, always in the same order.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def bin_ranges(positions: jax.Array, samples: int, tile: int, tiles: int) -> jax.Array:
    """For each RoI and tile along one axis, the bins with a sample that touches the tile: (B, R, tiles, 2) int32.

    `positions` (B, R, bins * samples) in cells, DROPPED where there is none. The range is [first, last + 1), and [0, 0)
    for no bin at all. A sample touches the cells less than one away.
    """
    start = (jnp.arange(tiles) * tile).astype(positions.dtype)[:, None]
    at = positions[..., None, :]
    touches = (at > start - 1) & (at < start + tile)
    bins = positions.shape[-1] // samples
    touches = touches.reshape(*touches.shape[:-1], bins, samples).any(-1)  # (B, R, tiles, bins)
    first = jnp.argmax(touches, -1)
    last = bins - jnp.argmax(touches[..., ::-1], -1)
    some = touches.any(-1)
    return jnp.where(some[..., None], jnp.stack([first, last], -1), 0).astype(jnp.int32)


def rois_of_blocks(
    row_ranges: jax.Array, column_ranges: jax.Array, block: int
) -> tuple[jax.Array, jax.Array]:
    """The RoIs that touch each block of `block` x `block` tiles, from the tiles' `bin_ranges`.

    Returns:
      ids (B, blocks_y, blocks_x, R) int32: the RoIs of a block in rising order, then R for the rest.
      counts (B, blocks_y, blocks_x) int32.
    """
    rows, columns = (
        _any_in_block(r[..., 1] > r[..., 0], block) for r in (row_ranges, column_ranges)
    )
    rois = rows.shape[1]
    rows, columns = rows.swapaxes(1, 2), columns.swapaxes(1, 2)  # (B, blocks, R)
    touches = rows[:, :, None] & columns[:, None]
    ids = jnp.sort(jnp.where(touches, jnp.arange(rois, dtype=jnp.int32), rois), axis=-1)
    return ids, touches.sum(-1, dtype=jnp.int32)


def _any_in_block(x: jax.Array, block: int) -> jax.Array:
    """(B, R, tiles) -> (B, R, ceil(tiles / block))."""
    x = jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[-1] % block)))
    return x.reshape(*x.shape[:2], x.shape[-1] // block, block).any(-1)


def on_level(positions: jax.Array, level: jax.Array, index: int, dropped: float) -> jax.Array:
    """(B, R, n) positions with those of the RoIs on other levels dropped."""
    return jnp.where((level == index)[..., None], positions, dropped)
