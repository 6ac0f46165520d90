"""The ways in which libraries resize images: a network sees the difference between them.

| method      | interpolation                                                        | size of a side        | result  |
|-------------|----------------------------------------------------------------------|-----------------------|---------|
| opencv      | OpenCV: means of areas where an image shrinks, else bilinear         | to the nearest        | uint8   |
| torchvision | bilinear without antialiasing, as `torch.nn.functional.interpolate`  | rounded down          | float32 |
| detectron2  | Pillow: bilinear, antialiased                                        | to the nearest, .5 up | uint8   |
| mmdet       | OpenCV: bilinear without antialiasing                                | to the nearest, .5 up | uint8   |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

Size = tuple[int, int]  # (height, width)


class Method(NamedTuple):
    """`side` makes whole pixels of a side's exact length; `resample` gives an image another size."""

    side: Callable[[float], int]
    resample: Callable[[np.ndarray, Size], np.ndarray]
    dtype: type = np.uint8  # of the resampled image


def _opencv(image: np.ndarray, size: Size) -> np.ndarray:
    shrinks = size[0] < image.shape[0]
    return cv2.resize(
        image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )


def _bilinear(image: np.ndarray, size: Size) -> np.ndarray:
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def _pillow(image: np.ndarray, size: Size) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def _half_up(length: float) -> int:
    return int(length + 0.5)


METHODS = {
    "opencv": Method(round, _opencv),
    "torchvision": Method(
        int, lambda image, size: _bilinear(image.astype(np.float32), size), np.float32
    ),
    "detectron2": Method(_half_up, _pillow),
    "mmdet": Method(_half_up, _bilinear),
}


def scaled(size: Size, factor: float, method: str = "opencv") -> Size:
    """`size` times `factor` in whole pixels, at least one."""
    side = METHODS[method].side
    return max(1, side(size[0] * factor)), max(1, side(size[1] * factor))


def resample(image: np.ndarray, size: Size, method: str = "opencv") -> np.ndarray:
    """An image (H, W, 3) uint8 -> (*size, 3) of `dtype(method)`, 0..255."""
    chosen = METHODS[method]
    if image.shape[:2] == tuple(size):
        return image.astype(chosen.dtype, copy=False)
    return chosen.resample(image, size)


def dtype(method: str = "opencv") -> type:
    """Of resampled images: only torchvision's are not rounded to whole numbers."""
    return METHODS[method].dtype
