"""One image and its targets, as they enter a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxseg.data import crops, geometry, source

_INSIDE = 1e-3  # pixels by which a box may stick out of the crop and still count as whole


@dataclasses.dataclass(frozen=True)
class Objects:
    """Targets of one image in pixels of the network input; masks are packed crops."""

    boxes: Float[np.ndarray, "n 4"]
    classes: Int[np.ndarray, "n"]
    masks: UInt8[np.ndarray, "n S S/8"]
    crowd_boxes: Float[np.ndarray, "m 4"]


def make_objects(
    instances: Sequence[source.Instance],
    place: geometry.Geometry,
    *,
    max_instances: int,
    max_crowds: int,
    mask_crop_size: int,
) -> Objects:
    """Moves the objects of an image along with it.

    An object that is wholly in sight keeps its box; one that is cut gets the box around what is left of its mask, and
    one with nothing left is dropped. Of too many objects the largest are kept.
    """
    boxes = place.boxes(np.array([item.box for item in instances], np.float64).reshape(-1, 4))
    limit = np.array((place.size[1], place.size[0]) * 2, np.float64)
    inside = np.clip(boxes, 0, limit)
    whole = (abs(inside - boxes) <= _INSIDE).all(1)
    seen = (inside[:, 2:] > inside[:, :2]).all(1)
    kept: list[tuple[int, np.ndarray, np.ndarray]] = []
    shape = (mask_crop_size, mask_crop_size)
    for i in sorted(range(len(instances)), key=lambda i: -instances[i].area):
        item = instances[i]
        if item.crowd or not seen[i] or len(kept) == max_instances:
            continue
        box = inside[i] if whole[i] else _visible_box(item.segmentation, place, inside[i])
        if box is None:
            continue
        mask = crops.crop(item.segmentation, place, box, shape)
        if mask.any():
            kept.append((i, box, mask))
    kept.sort(key=lambda entry: entry[0])
    crowds = [i for i, item in enumerate(instances) if item.crowd and seen[i]]
    crowds.sort(key=lambda i: -instances[i].area)
    return Objects(
        np.array([box for _, box, _ in kept], np.float32).reshape(-1, 4),
        np.array([instances[i].class_index for i, _, _ in kept], np.int32),
        crops.pack(np.array([mask for *_, mask in kept], np.uint8).reshape(-1, *shape)),
        inside[crowds[:max_crowds]].astype(np.float32).reshape(-1, 4),
    )


def _visible_box(segmentation: Any, place: geometry.Geometry, box: np.ndarray) -> np.ndarray | None:
    """The box around what is left of a mask inside `box`, at whole pixels of the network input."""
    low = np.floor(box[:2]).astype(int)
    high = np.ceil(box[2:]).astype(int)
    region = np.concatenate((low, high)).astype(np.float64)
    width, height = high - low
    found = crops.extent(crops.crop(segmentation, place, region, (int(height), int(width))))
    return None if found is None else found + np.tile(low, 2)
