"""Masks as crops of their boxes: an object's mask, resampled to S x S over its box."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
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
    cells = _resample(segmentation, region, shape) > 0.5
    return (cells[:, ::-1] if place.flip else cells).astype(np.uint8)


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
    mask: Mapping[str, Any], region: Float[np.ndarray, "4"], shape: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """The mean (shrinking) or the linear interpolation (growing) of an RLE over a grid of cells on `region`."""
    x0, y0, x1, y1 = map(float, region)
    rows, row_weights = _weights(y0, y1, shape[0], mask["size"][0])
    columns, column_weights = _weights(x0, x1, shape[1], mask["size"][1])
    part = rle.decode_columns(mask, columns.start, columns.stop)[rows].astype(np.float32)
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
