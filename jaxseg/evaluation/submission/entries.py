"""What one detection of COCO's results format must be, for either server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jaxseg.data import rle
from jaxseg.evaluation.submission.listing import Listing

KEYS = ("image_id", "category_id", "segmentation", "score")


def check(entry: Any, number: int, listing: Listing) -> None:
    """Checks a detection: its keys, ids, score, mask, and its box if there is one.

    Args:
      entry: the detection.
      number: its position among the results, from 0, for the message.
      listing: the split's images and classes.

    Raises:
      ValueError: the message has the entry, the value and the rule.
    """
    fault = _fault(entry, listing)
    if fault:
        image = entry.get("image_id") if isinstance(entry, Mapping) else None
        where = f"Entry {number}" + (f" (image {image!r})" if image is not None else "")
        raise ValueError(f"{where}: {fault}.")


def _fault(entry: Any, listing: Listing) -> str:
    """What is wrong; "" where nothing is."""
    if not isinstance(entry, Mapping):
        return f"{entry!r:.80} is no object; each entry must be one with {', '.join(KEYS)}"
    missing = [key for key in KEYS if key not in entry]
    if missing:
        return f"no {missing[0]!r} among {', '.join(map(str, entry))}; {', '.join(KEYS)} are needed"
    image, category, score = entry["image_id"], entry["category_id"], entry["score"]
    if type(image) is not int or image not in listing.sizes:
        return f"image_id {image!r} must be the id of one of the split's {len(listing)} images"
    if type(category) is not int or category not in listing.categories:
        known = ", ".join(map(str, listing.categories))
        return f"category_id {category!r} must be the id of a class of the split: {known:.400}"
    if not _is_number(score) or not 0 <= score <= 1:
        return f"score {score!r} must be a number from 0 to 1"
    if "bbox" in entry and not is_box(entry["bbox"]):
        return (
            f"bbox {entry['bbox']!r:.80} must be four finite numbers x, y, width, height, no size "
            "below 0"
        )
    return _mask_fault(entry["segmentation"], listing.sizes[image])


def _mask_fault(segmentation: Any, size: tuple[int, int]) -> str:
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= set(segmentation):
        return f"segmentation {segmentation!r:.80} must be an RLE, an object with size and counts"
    given, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(given, list | tuple) or tuple(given) != size:
        return f"segmentation of size {given!r}, but the image's is {list(size)} (height, width)"
    if not isinstance(counts, str):
        return f"counts of type {type(counts).__name__}; a compressed RLE, a string, is needed"
    if not counts.isascii() or not rle.covers(counts.encode(), size[0] * size[1]):
        return (
            f"counts {counts!r:.60} must be a compressed RLE whose runs add up to the image's "
            f"{size[0]} x {size[1]} pixels"
        )
    return ""


def is_box(box: Any) -> bool:
    """Whether it is a list of four numbers x, y, width, height."""
    return (
        isinstance(box, list | tuple)
        and len(box) == 4
        and all(map(_is_number, box))
        and min(box[2:]) >= 0
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
