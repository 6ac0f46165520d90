"""COCO's compressed run lengths, read with NumPy: checked, and decoded only where they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8


def runs(counts: bytes) -> Int[np.ndarray, "R"]:
    """Lengths of the runs, in turn of 0 and 1, down the columns.

    Raises:
      ValueError: these bytes are no compressed run lengths.
    """
    values = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not values.size or values.min() < 0 or values.max() > 63 or values[-1] & 32:
        raise ValueError("not a compressed RLE")
    # A number takes several characters of 5 bits each, low bits first; bit 6 says that more follow.
    ends = np.flatnonzero((values & 32) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    shifts = 5 * (np.arange(values.size) - np.repeat(starts, ends - starts + 1))
    if shifts.max() > 30:
        raise ValueError("not a compressed RLE")
    lengths = np.add.reduceat((values & 31) << shifts, starts)
    lengths -= np.where(values[ends] & 16, 32 << shifts[ends], 0)
    # From the fourth on they are differences to the run before the last.
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths


def covers(counts: bytes, pixels: int) -> bool:
    """Whether the runs add up to an image of `pixels`. pycocotools does not check it."""
    try:
        lengths = runs(counts)
    except ValueError:
        return False
    return bool(lengths.min() >= 0 and lengths.sum() == pixels)


def decode_columns(rle: Mapping[str, Any], first: int, last: int) -> UInt8[np.ndarray, "H w"]:
    """The columns first, ..., last - 1 of the mask, without the cost of the others."""
    height = rle["size"][0]
    begin, end = first * height, last * height
    ends = np.cumsum(runs(rle["counts"]))
    low, high = np.searchsorted(ends, begin, "right"), np.searchsorted(ends, end, "left")
    edges = np.clip(np.concatenate(([begin], ends[low : high + 1])), begin, end)
    values = (np.arange(low, low + len(edges) - 1) & 1).astype(np.uint8)
    return np.repeat(values, np.diff(edges)).reshape(last - first, height).T
