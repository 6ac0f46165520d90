"""Checks of `config.data` that need no data: a mistake is named before anything is opened or compiled."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from absl import logging

from jaxseg.data import resize as resize_lib
from jaxseg.data.prepare import layout

SOURCES = ("coco_json", "shapes", "tfds")
MODES = ("shortest_edge", "lsj")
STRIDE = 32  # of the network's coarsest level but the pooled one

_LEAST = {  # of whole numbers
    "max_instances": 1,
    "max_crowds": 0,
    "workers": 0,
    "prefetch": 1,
}


def check(data: Any) -> None:
    """Checks `config.data`. Buckets that shrink every image further than `short` and `max` are warned of once.

    Raises:
      ValueError: a value without sense; the message has the key, the value, and what is allowed.
    """
    if data.source not in SOURCES:
        raise ValueError(f"data.source={data.source!r}: allowed are coco_json, shapes and tfds.")
    _check_buckets(data.buckets)
    _check_resize(data)
    if not _is_number(data.flip) or not 0 <= data.flip <= 1:
        raise ValueError(f"data.flip={data.flip!r}: a probability is needed, 0 to 1.")
    for key, least in _LEAST.items():
        if not _is_whole(data[key]) or data[key] < least:
            raise ValueError(
                f"data.{key}={data[key]!r}: a whole number of at least {least} is needed."
            )
    share = data.get("eroded_masks", 0.0)  # runs of earlier versions have none
    if not _is_number(share) or not 0 <= share <= 0.5:
        raise ValueError(f"data.eroded_masks={share!r}: a share is needed, 0 (none) to 0.5.")
    threshold = data.get("repeat_threshold", 0.0)  # likewise
    if not _is_number(threshold) or not 0 <= threshold <= 1:
        raise ValueError(
            f"data.repeat_threshold={threshold!r}: a share of the images is needed, 0 (nothing is repeated) to 1; "
            "0.001 for LVIS."
        )
    side = data.mask_crop_size
    if not _is_whole(side) or side < 8 or side % 8:
        raise ValueError(
            f"data.mask_crop_size={side!r}: a positive multiple of 8 is needed (masks are packed, 8 pixels to a byte), "
            "e.g. 56 or 112."
        )
    if data.source == "shapes":
        check_shapes(data.shapes)
    if data.source == "tfds":
        _check_prepared(data)


def _check_prepared(data: Any) -> None:
    name = data.tfds.name
    if not isinstance(name, str) or not layout.NAME.fullmatch(name):
        raise ValueError(
            f"data.tfds.name={name!r}: the name of a prepared data set is needed (lower-case letters, digits and _), "
            "e.g. coco2017, lvis_v1, cityscapes_instances or own."
        )
    if not data.root:
        raise ValueError(
            "data.root is empty: with data.source='tfds' it is the --data_dir of jaxseg.data.prepare, e.g. "
            "--config.data.root=DIR."
        )


def check_shapes(shapes: Any, prefix: str = "data.shapes.") -> None:
    """Checks the settings of drawn scenes: `train`, `val`, `size`, `objects`,
    `huddled`, `seed`; `prefix` precedes their names.

    Raises:
      ValueError: as in `check`.
    """
    for key in ("train", "val", "seed"):
        if not _is_whole(shapes[key]) or shapes[key] < 0:
            raise ValueError(
                f"{prefix}{key}={shapes[key]!r}: a whole number of at least 0 is needed."
            )
    for key, least, unit in (("size", 16, "pixels"), ("objects", 1, "objects")):
        value = shapes[key]
        if not _is_pair(value) or not all(map(_is_whole, value)):
            raise ValueError(
                f"{prefix}{key}={value!r}: two whole numbers are needed, (smallest, largest)."
            )
        if not least <= value[0] <= value[1]:
            raise ValueError(
                f"{prefix}{key}={tuple(value)}: the smallest must be at least {least} {unit} and not above the largest."
            )
    huddled = shapes.get("huddled", 0)  # runs of earlier versions have none
    if not _is_number(huddled) or not 0 <= huddled <= 1:
        raise ValueError(f"{prefix}huddled={huddled!r}: a share from 0 to 1 is needed.")


def _check_buckets(buckets: Any) -> None:
    rule = (
        f"one or more pairs (height, width) of positive multiples of {STRIDE} are needed, "
        "e.g. ((512, 512), (512, 768))"
    )
    if not _is_sequence(buckets) or not buckets:
        raise ValueError(f"data.buckets={buckets!r}: {rule}.")
    for bucket in buckets:
        if not _is_pair(bucket) or not all(map(_is_whole, bucket)):
            raise ValueError(f"data.buckets={buckets!r}: {bucket!r} is no pair; {rule}.")
        if min(bucket) < 1 or any(side % STRIDE for side in bucket):
            nearest = tuple(max(1, math.ceil(side / STRIDE)) * STRIDE for side in bucket)
            raise ValueError(
                f"data.buckets={buckets!r}: {rule}. Take {nearest} instead of {tuple(bucket)}."
            )


def _check_resize(data: Any) -> None:
    mode = data.resize.mode
    if mode not in MODES:
        raise ValueError(f"data.resize.mode={mode!r}: allowed are {' and '.join(MODES)}.")
    evaluation = data.eval_resize.get("mode", "shortest_edge")
    if evaluation != "shortest_edge":
        raise ValueError(
            f"data.eval_resize.mode={evaluation!r}: evaluation only has shortest_edge."
        )
    for name in ("resize", "eval_resize"):
        method = data[name].get("method", "opencv")
        if method not in resize_lib.METHODS:
            raise ValueError(
                f"data.{name}.method={method!r}: allowed are {', '.join(resize_lib.METHODS)}."
            )
    _check_shortest_edge("data.resize", data.resize, several=True)
    _check_shortest_edge("data.eval_resize", data.eval_resize, several=False)
    if mode == "lsj":
        _check_jitter(data.resize, data.buckets)
    else:
        _check_fit("data.resize", data.resize, data.buckets)
    _check_fit("data.eval_resize", data.eval_resize, data.buckets)


def _check_shortest_edge(name: str, resize: Any, *, several: bool) -> None:
    short, longest = resize.short, resize.max
    sizes = tuple(short) if several and _is_sequence(short) else (short,)
    if not sizes or not all(map(is_size, sizes)):
        kinds = "one or more sizes" if several else "a size"
        raise ValueError(f"{name}.short={short!r}: {kinds} of at least 1 pixel needed.")
    if not is_size(longest):
        raise ValueError(f"{name}.max={longest!r}: a size of at least 1 pixel is needed.")


def _check_jitter(resize: Any, buckets: Sequence[Sequence[int]]) -> None:
    scale, size = resize.scale, resize.size
    if not _is_pair(scale) or not all(map(_is_number, scale)) or not 0 < scale[0] <= scale[1]:
        raise ValueError(f"data.resize.scale={scale!r}: (low, high) with 0 < low <= high needed.")
    if not _is_pair(size) or not all(map(_is_whole, size)) or min(size) < 1:
        raise ValueError(
            f"data.resize.size={size!r}: (height, width) of at least 1 pixel is needed."
        )
    if not any(size[0] <= height and size[1] <= width for height, width in buckets):
        raise ValueError(
            f"data.resize.size={tuple(size)} of data.resize.mode='lsj' fits into none of data.buckets={buckets!r}: "
            "make a bucket as large as the size, or the size smaller."
        )


def _check_fit(name: str, resize: Any, buckets: Sequence[Sequence[int]]) -> None:
    """Warns where an image of any shape but a very long one is larger than every bucket."""
    sizes = tuple(resize.short) if _is_sequence(resize.short) else (resize.short,)
    side = min(*sizes, resize.max)
    if side > max(map(min, buckets)):
        _warn_of_fit(name, side, resize.max, tuple(map(tuple, buckets)))


@functools.cache  # once: this is checked wherever batches begin
def _warn_of_fit(name: str, side: float, longest: float, buckets: tuple) -> None:
    logging.warning(
        "%s makes images at least %g pixels high and wide (max %g), but none of data.buckets=%s is: images are shrunk "
        "further, to fit. Enlarge the buckets, or lower %s.short and %s.max.",
        *(name, side, longest, buckets, name, name),
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_size(value: Any) -> bool:
    """Whether a value is a number of pixels, at least one."""
    return _is_number(value) and value >= 1


def _is_sequence(value: Any) -> bool:
    return isinstance(value, tuple | list)


def _is_pair(value: Any) -> bool:
    return _is_sequence(value) and len(value) == 2
