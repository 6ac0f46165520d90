"""Reading and checking COCO annotation files: clear errors, and one normal form for objects."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from jaxseg.data import problems as problems_lib
from jaxseg.data import rle, source

_IMAGE_KEYS = ("id", "file_name", "height", "width")
_ID_LIMIT = 2**63  # ids travel as int64; negative image ids mark entries that only fill up a batch


def load(path: str) -> dict[str, Any]:
    """Loads a COCO annotation file and checks its outer form; images of LVIS, which have no `file_name`, get theirs.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not JSON, not COCO (the message says which key is missing and what was found), ids that are
        missing, used twice or no whole numbers from 0 to 2**63 - 1, file names that are no strings,
        annotations that refer to unknown images or categories.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"Annotation file {path} does not exist. Set data.root and data.<split>.annotations."
        )
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}.") from None
    if not isinstance(data, dict):
        hint = " It looks like a results file." if isinstance(data, list) else ""
        raise ValueError(
            f"{path} is not a COCO annotation file: the top is a {type(data).__name__}, not an object.{hint}"
        )
    for key in ("images", "categories"):
        _check_list(path, data, key)
    if "annotations" in data:
        _check_list(path, data, "annotations")
    _name_files(data["images"])
    _check_entries(path, "image", data["images"], _IMAGE_KEYS)
    _check_entries(path, "category", data["categories"], ("id", "name"))
    _check_images(path, data["images"])
    _check_references(path, data)
    return data


def _check_list(path: str, data: Mapping[str, Any], key: str) -> None:
    if key not in data:
        found = ", ".join(sorted(map(str, data))) or "nothing"
        raise ValueError(f"{path} is not a COCO annotation file: no key {key!r}; found {found}.")
    if not isinstance(data[key], list) or not all(isinstance(e, dict) for e in data[key]):
        raise ValueError(
            f"{path} is not a COCO annotation file: {key!r} must be a list of objects."
        )


def _name_files(images: Sequence[dict[str, Any]]) -> None:
    """LVIS tells only where on the web an image is, and its folder with that: .../train2017/000000391895.jpg."""
    for entry in images:
        url = entry.get("coco_url")
        if entry.get("file_name") is None and isinstance(url, str):
            entry["file_name"] = "/".join(url.split("/")[-2:])


def _check_entries(
    path: str, kind: str, entries: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> None:
    seen = set()
    for position, entry in enumerate(entries):
        for key in keys:
            if entry.get(key) is None:
                raise ValueError(
                    f"{path}: {kind} number {position} (id {entry.get('id')}) has no {key!r}; "
                    f"found {', '.join(sorted(entry))}."
                )
        _check_id(path, kind, position, entry["id"])
        if entry["id"] in seen:
            raise ValueError(f"{path}: {kind} id {entry['id']} is used twice; ids must be unique.")
        seen.add(entry["id"])
    if kind == "category" and not entries:
        raise ValueError(f"{path}: 'categories' is empty; at least one class is needed.")


def _check_id(path: str, kind: str, position: int, value: Any) -> None:
    if not _is_integer(value) or not 0 <= value < _ID_LIMIT:
        raise ValueError(
            f"{path}: {kind} number {position} has the id {value!r}; ids are whole numbers from 0 to 2**63 - 1. "
            f"Number the {kind} entries."
        )


def _check_images(path: str, images: Sequence[Mapping[str, Any]]) -> None:
    for entry in images:
        if not isinstance(entry["file_name"], str):
            raise ValueError(
                f"{path}: image {entry['id']} has file_name {entry['file_name']!r}; a string is needed."
            )
        for key in ("height", "width"):
            if not _is_integer(entry[key]) or entry[key] < 1:
                raise ValueError(
                    f"{path}: image {entry['id']} has {key} {entry[key]!r}; a positive integer is needed."
                )


def _check_references(path: str, data: Mapping[str, Any]) -> None:
    known = {
        "image_id": ("images", {e["id"] for e in data["images"]}),
        "category_id": ("categories", {e["id"] for e in data["categories"]}),
    }
    for position, annotation in enumerate(data.get("annotations", ())):
        if annotation.get("id") is not None:
            _check_id(path, "annotation", position, annotation["id"])
        for key, (where, ids) in known.items():
            value = annotation.get(key)
            if not _is_integer(value) or value not in ids:
                raise ValueError(
                    f"{path}: annotation {annotation.get('id', f'number {position}')} has {key} {value!r}, "
                    f"which is not among the {len(ids)} ids of {where!r} ({_shown(ids)}). "
                    f"Add the entry to {where!r} or remove the annotation."
                )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(ids: set[int]) -> str:
    first = sorted(ids)[:8]
    return ", ".join(map(str, first)) + (", ..." if len(ids) > len(first) else "")


def categories(data: Mapping[str, Any]) -> tuple[source.Category, ...]:
    """The classes in the order of their ids; a class's index is its position here."""
    entries = sorted(data["categories"], key=lambda entry: entry["id"])
    return tuple(source.Category(entry["id"], str(entry["name"])) for entry in entries)


def normal_form(
    annotation: Mapping[str, Any],
    height: int,
    width: int,
    class_index: int,
    problems: problems_lib.Problems,
) -> source.Instance | None:
    """Turns a COCO annotation into an Instance, or counts in `problems` why it cannot be used.

    A missing box or area is taken from the segmentation; a box is clipped to the image.
    """
    crowd = bool(annotation.get("iscrowd", 0))
    name = f"annotation {annotation.get('id', '?')} of image {annotation['image_id']}"
    segmentation, fault = _segmentation(annotation.get("segmentation"), height, width)
    box = annotation.get("bbox")
    if segmentation is None and (not crowd or box is None):
        problems.add(fault, name)
        return None
    box, fault = _box(_extent(segmentation) if box is None else box, height, width)
    if box is None:
        problems.add(fault, name)
        return None
    area = annotation.get("area")
    if not _is_number(area) or not area > 0:
        area = _area(segmentation) if segmentation is not None else np.prod(box[2:] - box[:2])
    if not area > 0:
        problems.add("object without area", name)
        return None
    return source.Instance(class_index, box, segmentation, float(area), crowd)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _box(xywh: Any, height: int, width: int) -> tuple[np.ndarray | None, str]:
    try:
        x, y, w, h = map(float, xywh)
    except (TypeError, ValueError, OverflowError):
        return None, "object whose box is not four numbers"
    if not all(map(math.isfinite, (x, y, w, h))):
        return None, "object whose box is not finite"
    if w <= 0 or h <= 0:
        return None, "object whose box has no area"
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
    if right <= left or bottom <= top:
        return None, "object whose box is outside of its image"
    return np.array((left, top, right, bottom), np.float32), ""


def _segmentation(value: Any, height: int, width: int) -> tuple[Any, str]:
    if isinstance(value, dict):
        return _rle(value, height, width)
    if not isinstance(value, list) or not value:
        return None, "object without segmentation"
    parts = []
    for polygon in value:
        try:
            points = np.asarray(polygon, np.float32)
        except (TypeError, ValueError):
            return None, "object whose polygon is not a list of numbers"
        if points.ndim != 1 or points.size % 2:
            return None, "object whose polygon is not a list of numbers x0, y0, x1, y1, ..."
        if not np.isfinite(points).all():
            return None, "object whose polygon is not finite"
        if points.size >= 6:  # a point or a line has no area
            parts.append(points)
    return (tuple(parts), "") if parts else (None, "object whose polygons have no area")


def _rle(value: Mapping[str, Any], height: int, width: int) -> tuple[Any, str]:
    counts, size = value.get("counts"), value.get("size")
    if size != [height, width]:
        return None, "object whose RLE is of another size than its image"
    try:
        if isinstance(counts, list):
            if sum(counts) != height * width or min(counts) < 0:
                return None, "object whose RLE does not cover its image"
            return mask_utils.frPyObjects({"counts": counts, "size": size}, height, width), ""
        counts = counts.encode("ascii")
        if not rle.covers(counts, height * width):
            return None, "object whose RLE does not cover its image"
    except (AttributeError, TypeError, ValueError):
        return None, "object whose RLE is not readable"
    return {"size": [height, width], "counts": counts}, ""


def _extent(segmentation: Any) -> Any:
    if isinstance(segmentation, dict):
        return mask_utils.toBbox(segmentation)
    points = np.concatenate(segmentation).reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    return (*low, *(high - low))


def _area(segmentation: Any) -> float:
    if isinstance(segmentation, dict):
        return float(mask_utils.area(segmentation))
    total = 0.0
    for polygon in segmentation:
        x, y = polygon.reshape(-1, 2).astype(np.float64).T
        total += abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    return total
