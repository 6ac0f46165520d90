"""How an image gets to its place in the network's input: scale, crop, flip, bucket."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from jaxseg.data import resize as resize_lib
from jaxseg.data import settings

check = settings.check


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Resize to `resized`, cut out `size` from `offset` on, then mirror. All are (height, width) in pixels.

    `method` is how images are resized; see data.resize.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    size: tuple[int, int]
    flip: bool
    method: str = "opencv"

    @property
    def scale(self) -> tuple[float, float]:
        return self.resized[0] / self.original[0], self.resized[1] / self.original[1]

    @property
    def cropped(self) -> bool:
        return self.size != self.resized

    def image(
        self, image: UInt8[np.ndarray, "H W 3"]
    ) -> UInt8[np.ndarray, "h w 3"] | Float32[np.ndarray, "h w 3"]:
        image = resize_lib.resample(image, self.resized, self.method)
        if self.cropped:
            (y, x), (height, width) = self.offset, self.size
            image = np.ascontiguousarray(image[y : y + height, x : x + width])
        return cv2.flip(image, 1) if self.flip else image

    def points(self, points: Float[np.ndarray, "P 2"]) -> Float[np.ndarray, "P 2"]:
        """Moves points (x, y) of the original image into the result; they may lie outside of it."""
        (sy, sx), (oy, ox) = self.scale, self.offset
        x, y = points[:, 0] * sx - ox, points[:, 1] * sy - oy
        return np.stack((self.size[1] - x if self.flip else x, y), 1)

    def boxes(self, boxes: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
        """Moves boxes xyxy likewise; not clipped."""
        corners = self.points(np.asarray(boxes, np.float64).reshape(-1, 2)).reshape(-1, 2, 2)
        return np.concatenate((corners.min(1), corners.max(1)), 1)

    def back(self, box: Float[np.ndarray, "4"]) -> Float[np.ndarray, "4"]:
        """Moves one box of the result back into the original image."""
        x0, y0, x1, y1 = map(float, box)
        if self.flip:
            x0, x1 = self.size[1] - x1, self.size[1] - x0
        (sy, sx), (oy, ox) = self.scale, self.offset
        return np.array(((x0 + ox) / sx, (y0 + oy) / sy, (x1 + ox) / sx, (y1 + oy) / sy))


def shortest_edge(
    size: tuple[int, int], short: int | float, longest: int | float, method: str = "opencv"
) -> tuple[int, int]:
    """The (height, width) whose shorter side is `short`, unless the longer side would exceed `longest`."""
    factor = min(short / min(size), longest / max(size))
    return resize_lib.scaled(size, factor, method)


def fitted(size: tuple[int, int], limit: tuple[int, int]) -> tuple[int, int]:
    """`size`, shrunk in proportion if it exceeds `limit`."""
    factor = min(1.0, limit[0] / size[0], limit[1] / size[1])
    if factor == 1.0:
        return size
    height, width = resize_lib.scaled(size, factor)
    return min(height, limit[0]), min(width, limit[1])


def draw(
    resize: Any,
    flip: int | float,
    original: tuple[int, int],
    bucket: tuple[int, int],
    rng: np.random.Generator,
) -> Geometry:
    """Draws the geometry of a training image. The same number of draws in every mode, so that flips agree."""
    mirrored = bool(rng.random() < flip)
    first, down, across = rng.random(3)
    method = _method(resize)
    if resize.mode == "shortest_edge":
        sizes = _as_tuple(resize.short)
        short = sizes[int(first * len(sizes))]
        resized = fitted(shortest_edge(original, short, resize.max, method), bucket)
        return Geometry(original, resized, (0, 0), resized, mirrored, method)
    low, high = resize.scale
    target = fitted(tuple(resize.size), bucket)
    factor = min(target[0] / original[0], target[1] / original[1])
    resized = resize_lib.scaled(original, factor * (low + (high - low) * first), method)
    size = min(resized[0], target[0]), min(resized[1], target[1])
    offset = int(down * (resized[0] - size[0] + 1)), int(across * (resized[1] - size[1] + 1))
    return Geometry(original, resized, offset, size, mirrored, method)


def fixed(resize: Any, original: tuple[int, int], bucket: tuple[int, int]) -> Geometry:
    """The geometry of an evaluation image: `config.data.eval_resize`, no flip."""
    method = _method(resize)
    resized = fitted(shortest_edge(original, resize.short, resize.max, method), bucket)
    return Geometry(original, resized, (0, 0), resized, False, method)


def largest(resize: Any, original: tuple[int, int]) -> tuple[int, int]:
    """The biggest size that an image may be resized to: what its bucket has to hold."""
    if resize.get("mode", "shortest_edge") == "lsj":
        return tuple(resize.size)
    return shortest_edge(original, max(_as_tuple(resize.short)), resize.max, _method(resize))


def dtype(resize: Any) -> type:
    """Of the images that `config.data.resize` or `eval_resize` makes."""
    return resize_lib.dtype(_method(resize))


def choose_bucket(size: tuple[int, int], buckets: Sequence[tuple[int, int]]) -> int:
    """The bucket in which an image of `size` shrinks least; of those the one with the least padding."""

    def cost(bucket: tuple[int, int]) -> tuple[float, int]:
        shrink = min(1.0, bucket[0] / size[0], bucket[1] / size[1])
        return -shrink, bucket[0] * bucket[1]

    return min(range(len(buckets)), key=lambda i: cost(buckets[i]))


def _method(resize: Any) -> str:
    return resize.get("method", "opencv")


def _as_tuple(value: Any) -> tuple[int | float, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
