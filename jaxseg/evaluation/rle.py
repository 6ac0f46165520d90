"""A mask that fills a part of an image -> COCO's run lengths of the whole image, of which no mask is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils


def region_rle(x: int, y: int, region: np.ndarray, size: Sequence[int]) -> dict[str, Any]:
    """The compressed RLE, with str counts as JSON needs them, of an image that is empty outside of a region.

    Args:
      x, y: the region's first pixel. The region lies within the image.
      region: bool (width, height), transposed because RLE runs down columns.
      size: (height, width) of the image.
    """
    height, width = size
    columns, rows = region.shape
    padded = np.zeros(columns * (rows + 1) + 1, bool)  # a gap after each column ends its last run
    padded[1:].reshape(columns, rows + 1)[:, :rows] = region
    column, row = np.divmod(np.flatnonzero(padded[1:] != padded[:-1]), rows + 1)
    # Starts and ends of the runs in the whole image, in turn.
    edges = (x + column) * height + (y + row)
    if rows == height:  # runs may go on from a column's foot to the head of the next
        whole = np.flatnonzero(edges[1:-1:2] == edges[2::2])
        edges = np.delete(edges, np.concatenate([2 * whole + 1, 2 * whole + 2]))
    bounds = np.empty(edges.size + 2, np.int64)
    bounds[0], bounds[1:-1], bounds[-1] = 0, edges, height * width
    counts = (bounds[1:] - bounds[:-1]).astype(np.uint32)
    if counts[-1] == 0:  # the mask reaches the last pixel
        counts = counts[:-1]
    # The library takes an array as it is, twice as fast as a list.
    rle = mask_utils.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode()}


def decode(rle: Mapping[str, Any]) -> np.ndarray:
    """A compressed RLE -> bool (height, width)."""
    return mask_utils.decode(rle).astype(bool)
