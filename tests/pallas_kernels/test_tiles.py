"""Which RoIs and bins the tile-centric backward looks at, against a loop over samples and cells."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels.roi_align import tiles
from pallas_kernels.roi_align.grid import DROPPED

_TILE, _TILES, _BLOCK = 4, 5, 2  # 20 cells; the last block has one tile
_BINS, _SAMPLES, _ROIS = 3, 2, 3
_SHAPE = (1, _ROIS, _BINS * _SAMPLES)

_bin_ranges = jax.jit(
    functools.partial(tiles.bin_ranges, samples=_SAMPLES, tile=_TILE, tiles=_TILES)
)
_lists = jax.jit(functools.partial(tiles.rois_of_blocks, block=_BLOCK))

# Whole numbers and quarters: samples on cells, between them, and at the very borders of tiles. In any order: a box may
# be inverted, and dropped samples may lie at either end.
_position = st.one_of(
    st.just(DROPPED), st.integers(0, 4 * (_TILE * _TILES - 1)).map(lambda n: n / 4)
)
_positions = st.lists(_position, min_size=int(np.prod(_SHAPE)), max_size=int(np.prod(_SHAPE))).map(
    lambda x: np.array(x, np.float32).reshape(_SHAPE)
)


def _touched(positions):
    """(R, tiles, bins): has the bin a sample with weight in one of the tile's cells?"""
    cells = np.arange(_TILE * _TILES)
    weight = np.maximum(0, 1 - np.abs(positions[0, ..., None] - cells)) > 0  # (R, samples, cells)
    weight = weight.reshape(_ROIS, _BINS, _SAMPLES, _TILES, _TILE)
    return weight.any((2, 4)).swapaxes(1, 2)


@settings(deadline=None, max_examples=60)
@given(_positions)
def test_ranges_reach_from_the_first_to_the_last_bin_that_touches(positions):
    ranges = np.asarray(_bin_ranges(jnp.asarray(positions)))[0]
    for touched, (first, end) in zip(
        _touched(positions).reshape(-1, _BINS), ranges.reshape(-1, 2), strict=True
    ):
        bins = np.flatnonzero(touched)
        assert (first, end) == ((bins[0], bins[-1] + 1) if bins.size else (0, 0))


@settings(deadline=None, max_examples=60)
@given(_positions, _positions)
def test_lists_hold_the_rois_of_each_block_in_order(rows, columns):
    ids, counts = _lists(*(_bin_ranges(jnp.asarray(p)) for p in (rows, columns)))
    by_row, by_column = (_touched(p).any(-1) for p in (rows, columns))  # (R, tiles)
    for y, x in np.ndindex(*counts.shape[1:]):
        block = [slice(n * _BLOCK, (n + 1) * _BLOCK) for n in (y, x)]
        expected = np.flatnonzero(by_row[:, block[0]].any(-1) & by_column[:, block[1]].any(-1))
        assert counts[0, y, x] == len(expected)
        padded = np.concatenate([expected, np.full(_ROIS - len(expected), _ROIS)])
        np.testing.assert_array_equal(ids[0, y, x], padded)


def test_rois_of_other_levels_touch_nothing():
    positions = np.arange(6, dtype=np.float32).reshape(_SHAPE[0], 1, -1).repeat(_ROIS, 1)
    level = jnp.array([[1, 0, 1]])
    kept = tiles.on_level(jnp.asarray(positions), level, 1, DROPPED)
    assert (kept[0, 1] == DROPPED).all()
    np.testing.assert_array_equal(kept[0, ::2], positions[0, ::2])
    assert not _bin_ranges(kept)[0, 1].any()
