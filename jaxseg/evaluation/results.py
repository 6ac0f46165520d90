"""Detections in network pixels -> COCO results in the pixels of the original images.

A mask is a small grid of probabilities over its box. It is pasted with continuous coordinates
(bilinear between cell centres, zero outside, the semantics of Detectron2's `grid_sample`), one mask
at a time and only on the pixels that its box reaches, and goes straight into run lengths: no
full-size mask is ever made.

`paste="torchvision"` pastes as torchvision's Mask R-CNN does instead: the grid gets a border of zeros, its box grows
with it and is cut to whole pixels, and what the bilinear resize gives must be above the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_utils

from jaxseg.structures import Detections


def detections_to_results(
    detections: Detections,
    image_ids: np.ndarray,
    image_size: np.ndarray,
    original_size: np.ndarray,
    category_ids: Sequence[int],
    *,
    mask_threshold: float = 0.5,
    paste: str = "continuous",
) -> list[dict]:
    """A batch of detections as COCO result dicts with `bbox` and `segmentation`.

    Args:
      detections: arrays of the host, batch first, in pixels of the network input.
      image_ids: (B,) int; entries below 0 only fill up the batch and give no results.
      image_size: (B, 2) (height, width) of the image within the network input.
      original_size: (B, 2) (height, width) of the image file.
      category_ids: the data set's category id of each class index.
      mask_threshold: pixels with at least this probability belong to the object.
      paste: see `paste_region`.

    Returns:
      One dict a detection: image_id, category_id, score, bbox (x, y, width, height; clipped to the
      image) and segmentation (compressed RLE, str). Boxes that have no area within the image are
      left out.
    """
    results = []
    for b, image_id in enumerate(np.asarray(image_ids).tolist()):
        if image_id < 0:
            continue
        valid = np.asarray(detections.valid[b])
        results += image_results(
            np.asarray(detections.boxes[b])[valid],
            np.asarray(detections.scores[b])[valid],
            np.asarray(detections.classes[b])[valid],
            np.asarray(detections.masks[b])[valid],
            image_id=image_id,
            image_size=image_size[b],
            original_size=original_size[b],
            category_ids=category_ids,
            mask_threshold=mask_threshold,
            paste=paste,
        )
    return results


def image_results(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    masks: np.ndarray,
    *,
    image_id: int,
    image_size: Sequence[float],
    original_size: Sequence[int],
    category_ids: Sequence[int],
    mask_threshold: float = 0.5,
    paste: str = "continuous",
) -> list[dict]:
    """The results of one image: boxes (D, 4), scores (D,), classes (D,), masks (D, h, w), all of
    them valid.
    """
    size = (int(original_size[0]), int(original_size[1]))
    boxes = to_original(boxes, image_size, size)
    clipped = clip(boxes, size)
    masks = np.asarray(masks, np.float32)
    results = []
    for d in np.flatnonzero((clipped[:, 2:] > clipped[:, :2]).all(axis=1)).tolist():
        x0, y0, x1, y1 = clipped[d].tolist()
        results.append(
            {
                "image_id": image_id,
                "category_id": category_ids[int(classes[d])],
                "score": round(float(scores[d]), 7),
                "bbox": [round(x0, 3), round(y0, 3), round(x1 - x0, 3), round(y1 - y0, 3)],
                "segmentation": paste_rle(masks[d], boxes[d], size, mask_threshold, paste),
            }
        )
    return results


def to_original(
    boxes: np.ndarray, image_size: Sequence[float], original_size: Sequence[int]
) -> np.ndarray:
    """Boxes (.., 4) xyxy of the resized image -> of the original image, float64. Sizes are (height,
    width).
    """
    scale_y, scale_x = np.asarray(original_size, np.float64) / np.asarray(image_size, np.float64)
    return np.asarray(boxes, np.float64) * (scale_x, scale_y, scale_x, scale_y)


def clip(boxes: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Boxes (.., 4) xyxy cut off at an image of (height, width)."""
    return np.clip(boxes, 0, (size[1], size[0], size[1], size[0]))


def paste_region(
    probabilities: np.ndarray,
    box: np.ndarray,
    size: tuple[int, int],
    threshold: float = 0.5,
    paste: str = "continuous",
) -> tuple[int, int, np.ndarray]:
    """Pastes one mask on the part of the image that its box can reach.

    Args:
      probabilities: (h, w) over the box.
      box: (4,) xyxy in continuous pixels of the image; may stick out of it.
      size: (height, width) of the image.
      threshold: in (0, 1].
      paste: "continuous", or "torchvision": where the box is cut to whole pixels, and only probabilities above the
        threshold belong to the object.

    Returns:
      x, y of the region's first pixel, and the region's mask (width, height), transposed because
      RLE runs down columns.

    Raises:
      ValueError: an unknown way to paste.
    """
    if paste not in PASTES:
        raise ValueError(f"paste={paste!r}: allowed are {', '.join(PASTES)}.")
    axis, belongs = PASTES[paste]
    x0, y0, x1, y1 = np.asarray(box, np.float64).tolist()
    rows, across = probabilities.shape
    x, weights_x = axis(x0, x1, across, size[1])
    y, weights_y = axis(y0, y1, rows, size[0])
    return x, y, belongs(weights_x @ probabilities.T @ weights_y.T, threshold)


def _axis(low: float, high: float, cells: int, limit: int) -> tuple[int, np.ndarray]:
    """First pixel and bilinear weights (pixels, cells) of one axis; a cell's weight falls to 0 at
    the next cell's centre.
    """
    step = (high - low) / cells
    if not (step > 0 and np.isfinite(step)):
        return 0, np.zeros((0, cells), np.float32)
    first = min(max(int(np.floor(low - step / 2)), 0), limit)
    last = min(max(int(np.ceil(high + step / 2)), first), limit)
    position = ((np.arange(first, last) + 0.5 - low) / step - 0.5).astype(np.float32)
    distance = np.abs(position[:, None] - np.arange(cells, dtype=np.float32))
    return first, np.maximum(1 - distance, 0)


def _whole_pixel_axis(low: float, high: float, cells: int, limit: int) -> tuple[int, np.ndarray]:
    """As `_axis`, the way torchvision does it."""
    # In float32, as there: which whole pixel a corner is cut to may depend on its last bit.
    low, high = np.float32(low), np.float32(high)
    middle, half = (high + low) * np.float32(0.5), (high - low) * np.float32(0.5)
    half *= np.float32((cells + 2) / cells)
    if not np.isfinite(middle + half):
        return 0, np.zeros((0, cells), np.float32)
    start, end = int(middle - half), int(middle + half)  # cut towards zero
    count = max(end - start + 1, 1)
    first, last = max(start, 0), min(end + 1, limit)
    if last <= first:
        return 0, np.zeros((0, cells), np.float32)
    # Pixel i of `count` is a bilinear sample of the bordered grid, whose first and last cells are 0.
    place = (np.arange(first - start, last - start) + 0.5) * ((cells + 2) / count) - 0.5
    place = np.clip(place, 0, cells + 1).astype(np.float32)
    distance = np.abs(place[:, None] - np.arange(1, cells + 1, dtype=np.float32))
    return first, np.maximum(1 - distance, 0)


# How a mask is pasted: the weights of an axis, and which probabilities belong to the object.
PASTES = {
    "continuous": (_axis, np.greater_equal),
    "torchvision": (_whole_pixel_axis, np.greater),
}


def paste_rle(
    probabilities: np.ndarray,
    box: np.ndarray,
    size: tuple[int, int],
    threshold: float = 0.5,
    paste: str = "continuous",
) -> dict:
    """`paste_region` as a compressed COCO RLE of the whole image, with str counts (ready for JSON)."""
    return region_rle(*paste_region(probabilities, box, size, threshold, paste), size)


def region_rle(x: int, y: int, region: np.ndarray, size: tuple[int, int]) -> dict:
    """A mask (width, height) whose first pixel is (x, y), as the compressed RLE of an image of
    (height, width).
    """
    height, width = size
    columns, rows = region.shape
    padded = np.zeros(columns * (rows + 1) + 1, bool)  # a gap after each column ends its last run
    padded[1:].reshape(columns, rows + 1)[:, :rows] = region
    column, row = np.divmod(np.flatnonzero(padded[1:] != padded[:-1]), rows + 1)
    edges = (
        (x + column) * height + y + row
    )  # starts and ends of the runs in the whole image, in turn
    if rows == height:  # runs may go on from a column's foot to the head of the next
        whole = np.flatnonzero(edges[1:-1:2] == edges[2::2])
        edges = np.delete(edges, np.concatenate([2 * whole + 1, 2 * whole + 2]))
    bounds = np.empty(edges.size + 2, np.int64)
    bounds[0], bounds[1:-1], bounds[-1] = 0, edges, height * width
    counts = (bounds[1:] - bounds[:-1]).tolist()
    if counts[-1] == 0:  # the mask reaches the last pixel
        counts.pop()
    rle = mask_utils.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode()}


def decode(rle: dict) -> np.ndarray:
    """A compressed RLE -> bool (height, width)."""
    return mask_utils.decode(rle).astype(bool)
