"""Detections in network pixels -> COCO results in the pixels of the original images.

A mask is a small grid of probabilities over its box. It is pasted with continuous coordinates
(bilinear between cell centres, zero outside, the semantics of Detectron2's `grid_sample`), one mask
at a time and only on the pixels that its box reaches, and goes straight into run lengths: no
full-size mask is ever made. Processes that paste (`pasters`) import this module: it needs no jax.

`paste="torchvision"` pastes as torchvision's Mask R-CNN does instead: the grid gets a border of zeros, its box grows
with it and is cut to whole pixels, and what the bilinear resize gives must be above the threshold.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxseg import atomic
from jaxseg.evaluation.rle import decode, region_rle

if TYPE_CHECKING:
    from jaxseg.structures import Detections

__all__ = [
    "PASTES",
    "clip",
    "decode",
    "detections_to_results",
    "host_images",
    "image_results",
    "paste_region",
    "paste_rle",
    "region_rle",
    "save",
    "to_original",
]
_WRITTEN = 1000  # results that are JSON in memory at once
# Masks whose weights are computed at once: fewer calls, and still within a core's cache.
_TOGETHER = 16
# Multiplications in a matrix product up to which OpenBLAS starts no threads: those would wait for each other, busily,
# for longer than the product takes.
_SERIAL = 1 << 18


def detections_to_results(
    detections: Detections,
    image_ids: np.ndarray,
    image_size: np.ndarray,
    original_size: np.ndarray,
    category_ids: Sequence[int | None],
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
      category_ids: the data set's category id of each class index. None: a class that the data set does not have;
        what is found of it is left out.
      mask_threshold: pixels with at least this probability belong to the object.
      paste: see `paste_region`.

    Returns:
      One dict a detection: image_id, category_id, score, bbox (x, y, width, height; clipped to the
      image) and segmentation (compressed RLE, str). Boxes that have no area within the image are
      left out.
    """
    images = host_images(detections, image_ids, image_size, original_size, category_ids)
    options = dict(mask_threshold=mask_threshold, paste=paste)
    return [result for image in images for result in image_results(**image, **options)]


def host_images(
    detections: Detections,
    image_ids: np.ndarray,
    image_size: np.ndarray,
    original_size: np.ndarray,
    category_ids: Sequence[int | None],
) -> list[dict[str, Any]]:
    """Arguments of `image_results` for each image of a batch, only of what is valid and of classes with an id: what a
    process that pastes has to be told. Arguments as of `detections_to_results`.
    """
    has_id = np.array([category_id is not None for category_id in category_ids], bool)
    images = []
    for b, image_id in enumerate(np.asarray(image_ids).tolist()):
        if image_id < 0:
            continue
        classes = np.asarray(detections.classes[b])
        kept = np.flatnonzero(detections.valid[b])
        kept = kept[has_id[classes[kept]]]
        images.append(
            {
                "boxes": np.asarray(detections.boxes[b])[kept],
                "scores": np.asarray(detections.scores[b])[kept],
                "classes": classes[kept],
                "masks": np.asarray(np.asarray(detections.masks[b])[kept], np.float32),
                "image_id": image_id,
                "image_size": tuple(np.asarray(image_size[b]).tolist()),
                "original_size": tuple(np.asarray(original_size[b]).tolist()),
                "category_ids": list(category_ids),
            }
        )
    return images


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
    kept = np.flatnonzero((clipped[:, 2:] > clipped[:, :2]).all(axis=1))
    masks = np.asarray(masks, np.float32)[kept]
    regions = _regions(masks, boxes[kept], size, mask_threshold, paste)
    results = []
    for d, region in zip(kept.tolist(), regions, strict=True):
        x0, y0, x1, y1 = clipped[d].tolist()
        results.append(
            {
                "image_id": image_id,
                "category_id": category_ids[int(classes[d])],
                "score": round(float(scores[d]), 7),
                "bbox": [round(x0, 3), round(y0, 3), round(x1 - x0, 3), round(y1 - y0, 3)],
                "segmentation": region_rle(*region, size),
            }
        )
    return results


def save(path: str | os.PathLike, results: Iterable[Mapping[str, Any]]) -> None:
    """Writes results as a JSON list, some at a time: no text of all of them is ever in memory. The file, whose folder
    is made, appears whole or not at all.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = iter(results)
    with atomic.replacing(path) as file:
        file.write("[")
        between = ""
        while some := list(itertools.islice(entries, _WRITTEN)):
            file.write(between + json.dumps(some)[1:-1])
            between = ", "
        file.write("]")


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
    (region,) = _regions(probabilities[None], np.asarray(box)[None], size, threshold, paste)
    return region


def _regions(
    masks: np.ndarray,
    boxes: np.ndarray,
    size: tuple[int, int],
    threshold: float,
    paste: str,
) -> Iterator[tuple[int, int, np.ndarray]]:
    """`paste_region` of each of masks (D, h, w) and boxes (D, 4), one after another."""
    if paste not in PASTES:
        raise ValueError(f"paste={paste!r}: allowed are {', '.join(PASTES)}.")
    axis, belongs = PASTES[paste]
    rows, across = masks.shape[1:]
    boxes = np.asarray(boxes, np.float64)
    for start in range(0, len(masks), _TOGETHER):
        some = slice(start, start + _TOGETHER)
        x0, y0, x1, y1 = boxes[some].T
        with np.errstate(over="ignore", invalid="ignore"):  # boxes that are not finite
            columns = axis(x0, x1, across, size[1])
            lines = axis(y0, y1, rows, size[0])
        for mask, (x, wx), (y, wy) in zip(masks[some], columns, lines, strict=True):
            yield x, y, belongs(_product(_product(wx, mask.T), wy.T), threshold)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The matrix product of float32 arrays, in parts that this thread computes alone."""
    step = max(1, _SERIAL // max(1, b.size))
    if len(a) <= step:
        return a @ b
    out = np.empty((len(a), b.shape[1]), np.float32)
    for i in range(0, len(a), step):
        np.matmul(a[i : i + step], b, out=out[i : i + step])
    return out


def _axis(
    low: np.ndarray, high: np.ndarray, cells: int, limit: int
) -> list[tuple[int, np.ndarray]]:
    """First pixel and bilinear weights (pixels, cells) of one axis of each box; a cell's weight falls to 0 at
    the next cell's centre.
    """
    step = (high - low) / cells
    there = (step > 0) & np.isfinite(step)
    low, step = np.where(there, low, 0), np.where(there, step, 1)
    high = np.where(there, high, 0)
    first = np.clip(np.floor(low - step / 2), 0, limit)
    last = np.clip(np.ceil(high + step / 2), first, limit)
    last = np.where(there, last, first)
    pixel, box = _pixels(first, last)
    position = ((pixel + 0.5 - low[box]) / step[box] - 0.5).astype(np.float32)
    return _split(first, last, _hat(position, np.arange(cells, dtype=np.float32)))


def _whole_pixel_axis(
    low: np.ndarray, high: np.ndarray, cells: int, limit: int
) -> list[tuple[int, np.ndarray]]:
    """As `_axis`, the way torchvision does it."""
    # In float32, as there: which whole pixel a corner is cut to may depend on its last bit.
    low, high = low.astype(np.float32), high.astype(np.float32)
    middle, half = (high + low) * np.float32(0.5), (high - low) * np.float32(0.5)
    half = half * np.float32((cells + 2) / cells)
    there = np.isfinite(middle + half)
    middle, half = np.where(there, middle, 0), np.where(there, half, 0)
    start = np.trunc(middle - half).astype(np.float64)  # cut towards zero
    end = np.trunc(middle + half).astype(np.float64)
    count = np.maximum(end - start + 1, 1)
    first, last = np.maximum(start, 0), np.minimum(end + 1, limit)
    there &= last > first
    first, last = np.where(there, first, 0), np.where(there, last, 0)
    # Pixel i of `count` is a bilinear sample of the bordered grid, whose first and last cells are 0.
    pixel, box = _pixels(first, last)
    place = (pixel - start[box] + 0.5) * ((cells + 2) / count[box]) - 0.5
    place = np.clip(place, 0, cells + 1).astype(np.float32)
    return _split(first, last, _hat(place, np.arange(1, cells + 1, dtype=np.float32)))


def _pixels(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole numbers from `first` up to `last`, without it, of one box after another, and whose they are."""
    count = (last - first).astype(np.int64)
    box = np.repeat(np.arange(len(count)), count)
    return np.arange(len(box)) + (first - np.cumsum(count) + count)[box], box


def _hat(position: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """(P,), (C,) -> (P, C): 1 less the distance, at least 0."""
    weights = position[:, None] - cells
    np.abs(weights, out=weights)
    np.subtract(1, weights, out=weights)
    return np.maximum(weights, 0, out=weights)


def _split(
    first: np.ndarray, last: np.ndarray, weights: np.ndarray
) -> list[tuple[int, np.ndarray]]:
    """Each box's first pixel and its part of the weights."""
    ends = np.cumsum(last - first).astype(int).tolist()
    starts = [0, *ends[:-1]]
    places = zip(first.astype(int).tolist(), starts, ends, strict=True)
    return [(x, weights[start:end]) for x, start, end in places]


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
