"""One image and its targets, as they enter a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
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
    eroded: UInt8[np.ndarray, "n S S/8"] | None = None  # without their inner edge


def make_objects(
    instances: Sequence[source.Instance],
    place: geometry.Geometry,
    *,
    max_instances: int,
    max_crowds: int,
    mask_crop_size: int,
    eroded_masks: float = 0.0,
) -> Objects:
    """Moves the objects of an image along with it.

    An object that is wholly in sight keeps its box; one that is cut gets the box around what is left of its mask, and
    one with nothing left is dropped. Of too many objects the largest are kept. With `eroded_masks` there are the masks
    without that share of their diagonal too.
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
    edgeless = None
    if eroded_masks:
        made = (
            crops.eroded(instances[i].segmentation, place, box, shape, eroded_masks)
            for i, box, _ in kept
        )
        edgeless = _packed(made, shape)
    return Objects(
        np.array([box for _, box, _ in kept], np.float32).reshape(-1, 4),
        np.array([instances[i].class_index for i, _, _ in kept], np.int32),
        _packed((mask for *_, mask in kept), shape),
        inside[crowds[:max_crowds]].astype(np.float32).reshape(-1, 4),
        edgeless,
    )


def _packed(masks: Iterable[np.ndarray], shape: tuple[int, int]) -> UInt8[np.ndarray, "n S S/8"]:
    return crops.pack(np.array([*masks], np.uint8).reshape(-1, *shape))


def _visible_box(segmentation: Any, place: geometry.Geometry, box: np.ndarray) -> np.ndarray | None:
    """The box around what is left of a mask inside `box`, at whole pixels of the network input."""
    mask, low = crops.full(segmentation, place, box)
    found = crops.extent(mask)
    return None if found is None else found + np.tile(low, 2)
