"""Masks as crops of their boxes: an object's mask, resampled to S x S over its box."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from pycocotools import mask as mask_utils

from jaxseg.data import geometry, rle

_FAR = 64


def crop(
    segmentation: Any,
    place: geometry.Geometry,
    box: Float[np.ndarray, "4"],
    shape: tuple[int, int],
) -> UInt8[np.ndarray, "h w"]:
    """The part of a mask that lies in `box`, resampled to `shape`; values 0 and 1.

    Polygons are rasterised on the grid of the crop by pycocotools' rule. An RLE is averaged over each cell's area
    where it shrinks, interpolated where it grows, and cut at one half.

    Args:
      segmentation: polygons or RLE in the original image, see `source.Instance`.
      place: how the original image was moved.
      box: xyxy in the moved image.
      shape: (height, width) of the crop.
    """
    if isinstance(segmentation, tuple):
        return _polygons(segmentation, place, box, shape)
    region = place.back(box)
    read = functools.partial(rle.decode_columns, segmentation)
    cells = _resample(read, segmentation["size"], region, shape) > 0.5
    return (cells[:, ::-1] if place.flip else cells).astype(np.uint8)


def full(
    segmentation: Any, place: geometry.Geometry, box: Float[np.ndarray, "4"]
) -> tuple[UInt8[np.ndarray, "h w"], Int[np.ndarray, "2"]]:
    """The part of a mask in `box` at the resolution of the moved image, and its origin (x, y), in whole pixels."""
    low, high = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
    region = np.concatenate((low, high)).astype(np.float64)
    width, height = (int(side) for side in high - low)
    return crop(segmentation, place, region, (height, width)), low


def eroded(
    segmentation: Any,
    place: geometry.Geometry,
    box: Float[np.ndarray, "4"],
    shape: tuple[int, int],
    share: float,
) -> UInt8[np.ndarray, "h w"]:
    """As `crop`, of the mask after erosion in the moved image.

    By 3x3 squares, as often as `share` of the box's diagonal has pixels, at least once; outside of the box is
    background.
    """
    mask, low = full(segmentation, place, box)
    times = max(1, round(share * float(np.hypot(*(box[2:] - box[:2])))))
    square, outside = (
        np.ones((3, 3), np.uint8),
        {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0},
    )
    mask = cv2.erode(mask, square, iterations=times, **outside)
    region = box - np.tile(low, 2)
    cells = _resample(lambda start, end: mask[:, start:end], mask.shape, region, shape)
    return (cells > 0.5).astype(np.uint8)


def _polygons(polygons, place, box, shape):
    origin = box[:2].astype(np.float64)
    factor = np.array((shape[1], shape[0])) / (box[2:] - origin)
    lengths = [polygon.size for polygon in polygons]
    points = np.concatenate(polygons).astype(np.float64).reshape(-1, 2)
    points = ((place.points(points) - origin) * factor).reshape(-1)
    # A polygon that is vastly bigger than its box would take the rasteriser's memory, so it is bent far outside.
    points = np.clip(points, -_FAR * max(shape), _FAR * max(shape))
    parts, start = [], 0
    for length in lengths:
        parts.append(points[start : start + length].tolist())
        start += length
    rles = mask_utils.frPyObjects(parts, *shape)
    return mask_utils.decode(rles[0] if len(rles) == 1 else mask_utils.merge(rles))


def _resample(
    read: Callable[[int, int], np.ndarray],
    size: Sequence[int],
    region: Float[np.ndarray, "4"],
    shape: tuple[int, int],
) -> Float[np.ndarray, "h w"]:
    """The mean (shrinking) or the linear interpolation (growing) of a mask over a grid of cells on `region`.

    `read` gives the columns of the mask from one to another.
    """
    x0, y0, x1, y1 = map(float, region)
    rows, row_weights = _weights(y0, y1, shape[0], size[0])
    columns, column_weights = _weights(x0, x1, shape[1], size[1])
    part = read(columns.start, columns.stop)[rows].astype(np.float32)
    # OpenCV's product, since that of NumPy starts threads, which workers on few cores pay for dearly.
    part = cv2.gemm(row_weights, part, 1, None, 0)
    return cv2.gemm(part, column_weights, 1, None, 0, flags=cv2.GEMM_2_T)


def _weights(
    start: float, end: float, cells: int, pixels: int
) -> tuple[slice, Float[np.ndarray, "cells n"]]:
    """Which pixels of an axis a region touches, and how much each enters each cell. Outside there are zeros."""
    step = (end - start) / cells
    first, last = max(int(np.floor(start)) - 1, 0), min(int(np.ceil(end)) + 1, pixels)
    pixel = np.arange(first, last, dtype=np.float64)
    left = start + step * np.arange(cells)[:, None]
    if step > 1:
        overlap = np.minimum(left + step, pixel + 1) - np.maximum(left, pixel)
        weights = np.maximum(overlap, 0) / step
    else:
        weights = np.maximum(1 - abs(left + step / 2 - pixel - 0.5), 0)
    return slice(first, last), weights.astype(np.float32)


def extent(
    mask: Bool[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"],
) -> Float[np.ndarray, "4"] | None:
    """The box xyxy around the pixels that are set, right and bottom edges exclusive; None if there are none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return None
    return np.array((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), np.float32)


def pack(crops: UInt8[np.ndarray, "*n S S"]) -> UInt8[np.ndarray, "*n S S/8"]:
    """Packs crops to bits along the width."""
    return np.packbits(crops, axis=-1)


def unpack(packed: UInt8[np.ndarray, "*n S S/8"]) -> UInt8[np.ndarray, "*n S S"]:
    return np.unpackbits(packed, axis=-1)
