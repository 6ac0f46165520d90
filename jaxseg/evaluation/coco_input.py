"""Reading and checking what goes into a COCO evaluation, so that bad input is named before a
library meets it.

Everything here returns new objects: the caller's dicts and lists are never changed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

IOU_TYPES = ("bbox", "segm", "boundary")  # the last two are about masks
AREAS_FROM = ("mask", "box")


def read_json(path: str | os.PathLike, what: str) -> Any:
    """Reads a JSON file; `what` names it in errors.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not JSON.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No {what} file at {os.fspath(path)!r}.")
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"The {what} file {os.fspath(path)!r} is not JSON: {error}.") from None


def prepare_ground_truth(ground_truth: Mapping, iou_type: str) -> dict:
    """Checks COCO ground truth and brings it into the one form that both evaluators take.

    Annotation ids are renumbered from 1 (the evaluators take id 0 for "unmatched"), a missing
    `iscrowd` is 0, and masks become compressed RLE.

    Raises:
      ValueError: it is not a COCO dict, or an entry lacks a key or names an unknown image or
        category.
    """
    if not isinstance(ground_truth, Mapping):
        raise ValueError(
            f"The ground truth must be a COCO dict, got a {type(ground_truth).__name__}."
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(ground_truth.get(key), Sequence):
            found = ", ".join(map(str, ground_truth)) or "nothing"
            raise ValueError(
                f"The ground truth lacks the list {key!r} of a COCO file; it has: {found}."
            )
    size_keys = ("id",) if iou_type == "bbox" else ("id", "height", "width")
    for image in ground_truth["images"]:
        _require(image, size_keys, "image of the ground truth")
    for category in ground_truth["categories"]:
        _require(category, ("id", "name"), "category of the ground truth")
    images = {image["id"]: dict(image) for image in ground_truth["images"]}
    categories = {category["id"]: dict(category) for category in ground_truth["categories"]}
    geometry = "bbox" if iou_type == "bbox" else "segmentation"
    annotations = []
    for entry in ground_truth["annotations"]:
        what = "annotation of the ground truth"
        if iou_type != "bbox" and _is_bare_crowd(entry):
            entry = {**entry, "segmentation": _box_polygon(entry)}  # crowds may be boxes alone
        _require(entry, ("image_id", "category_id", "area", geometry), what)
        _check_ids(entry, images, categories, what)
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": entry["image_id"],
                "category_id": entry["category_id"],
                "area": entry["area"],
                "iscrowd": int(entry.get("iscrowd", 0)),
                geometry: _geometry(entry, geometry, images, what),
            }
        )
    return {
        "images": list(images.values()),
        "categories": list(categories.values()),
        "annotations": annotations,
    }


def prepare_results(
    results: Sequence[Mapping],
    ground_truth: Mapping,
    iou_type: str,
    area_from: str = "mask",
    chosen: Sequence[int] | None = None,
) -> dict:
    """Checks COCO results against prepared ground truth and makes a data set of them.

    Only the geometry that is evaluated is kept: a box beside a mask would make COCO's evaluators
    take the box's area for the mask's, and sort objects into other size classes.

    Args:
      results: COCO results.
      ground_truth: of `prepare_ground_truth`.
      iou_type: one of `IOU_TYPES`.
      area_from: "mask", or "box": a detection has the size of its box, whatever its mask.
      chosen: positions of the results that count; default: all.

    Raises:
      ValueError: not a list, a missing key, an unknown image or category id, a number that is not
        finite.
    """
    results = check_list(results)
    images = {image["id"]: image for image in ground_truth["images"]}
    categories = {category["id"]: category for category in ground_truth["categories"]}
    geometry = "bbox" if iou_type == "bbox" else "segmentation"
    annotations = []
    for index in range(len(results)) if chosen is None else chosen:
        entry, what = results[index], f"result {index}"
        check_result(entry, images, categories, what)
        _require(entry, (geometry,), what)
        made = {
            "id": index + 1,
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "score": entry["score"],
            "iscrowd": 0,
            geometry: _geometry(entry, geometry, images, what),
        }
        if geometry == "bbox" or area_from == "box":
            _require(entry, ("bbox",), what)
            *_, w, h = _geometry(entry, "bbox", images, what)
            made["area"] = w * h
        else:  # one at a time: a list of more than 255 overflows in pycocotools under NumPy 2
            made["area"] = int(mask_utils.area(made[geometry]))
        annotations.append(made)
    return {
        "images": ground_truth["images"],
        "categories": ground_truth["categories"],
        "annotations": annotations,
    }


def check_list(results: Any) -> Sequence[Mapping]:
    """The results, if they are a list.

    Raises:
      ValueError: they are not.
    """
    if not isinstance(results, Sequence) or isinstance(results, str | bytes):
        raise ValueError(
            f"COCO results must be a list of dicts, got a {type(results).__name__}; "
            "a results file is `[{image_id, category_id, score, bbox or segmentation}, ...]`."
        )
    return results


def check_result(entry: Any, images: Mapping, categories: Mapping, what: str) -> None:
    """Checks a result but for its geometry; `what` names it in errors.

    Raises:
      ValueError: a missing key, an unknown image or category id, a score that is not finite.
    """
    _require(entry, ("image_id", "category_id", "score"), what)
    _check_ids(entry, images, categories, what)
    if not _finite([entry["score"]]):
        raise ValueError(f"The score of {what} is not a finite number: {entry['score']!r}.")


def to_rle(segmentation: Any, height: int, width: int) -> dict:
    """COCO's three ways to write a mask (polygons, uncompressed, compressed RLE) -> compressed RLE
    of (height, width).

    Raises:
      ValueError: it is none of the three, is empty, or belongs to an image of another size.
    """
    if isinstance(segmentation, Sequence) and not isinstance(segmentation, str | bytes):
        # The library would take a part of four numbers for a box; under three points nothing has area.
        parts = [list(part) for part in segmentation if len(part) >= 6]
        if not parts:
            raise ValueError("has no polygon of three or more points")
        return mask_utils.merge(mask_utils.frPyObjects(parts, height, width))
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= set(segmentation):
        raise ValueError("is neither a list of polygons nor an RLE dict with `size` and `counts`")
    if tuple(segmentation["size"]) != (height, width):
        raise ValueError(
            f"is an RLE of size {tuple(segmentation['size'])}, but the image is {(height, width)} "
            "(height, width)"
        )
    counts = segmentation["counts"]
    if isinstance(counts, str | bytes):
        return {
            "size": [height, width],
            "counts": counts.encode() if isinstance(counts, str) else counts,
        }
    if sum(counts) != height * width:
        raise ValueError(f"is an RLE over {sum(counts)} pixels, but the image has {height * width}")
    return mask_utils.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width)


def _geometry(entry: Mapping, key: str, images: Mapping, what: str) -> Any:
    value = entry[key]
    name = f"{what} (id {entry['id']})" if "id" in entry else what
    if key == "segmentation":
        image = images[entry["image_id"]]
        try:
            return to_rle(value, int(image["height"]), int(image["width"]))
        except (ValueError, TypeError) as error:
            raise ValueError(f"The segmentation of {name}, image {image['id']}, {error}.") from None
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(value, Sequence) or len(value) != 4 or not _finite(value):
        raise ValueError(
            f"The bbox of {name} must be four finite numbers x, y, w, h, got {value!r}."
        )
    return list(value)


def _is_bare_crowd(entry: Any) -> bool:
    return (
        isinstance(entry, Mapping) and bool(entry.get("iscrowd")) and not entry.get("segmentation")
    )


def _box_polygon(entry: Mapping) -> list[list[float]]:
    _require(entry, ("bbox",), "crowd of the ground truth")
    x, y, w, h = entry["bbox"]
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def _require(entry: Any, keys: tuple[str, ...], what: str) -> None:
    if not isinstance(entry, Mapping):
        raise ValueError(
            f"An entry ({what}) is a {type(entry).__name__}, not a dict: {entry!r:.80}."
        )
    for key in keys:
        if key not in entry:
            raise ValueError(f"The key {key!r} is missing in {what}: {dict(entry)!r:.160}.")


def _check_ids(entry: Mapping, images: Mapping, categories: Mapping, what: str) -> None:
    if entry["image_id"] not in images:
        raise ValueError(
            f"Unknown image id {entry['image_id']!r} in {what}: it is none of the ground truth's "
            f"{len(images)} images."
        )
    if entry["category_id"] not in categories:
        known = ", ".join(map(str, list(categories)[:20])) + (
            ", ..." if len(categories) > 20 else ""
        )
        raise ValueError(
            f"Unknown category id {entry['category_id']!r} in {what}; the ground truth has {known}."
        )


def _finite(values: Sequence) -> bool:
    try:
        return all(math.isfinite(value) for value in values)
    except TypeError:
        return False
