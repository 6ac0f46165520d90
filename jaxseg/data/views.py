"""Test-time augmentation: the sizes at which an image is shown to the network, and whether it is mirrored.

A view at a shorter side of `short` is what evaluation shows otherwise, `data.eval_resize` in a bucket of
`data.buckets`, all enlarged by `short / data.eval_resize.short`: the longest side that is allowed and the bucket as
well. So images that share a bucket share it in every view.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxseg.data import geometry, settings


@dataclasses.dataclass(frozen=True)
class View:
    """`resize` is like `config.data.eval_resize`; `buckets` are as many as in `config.data`, in their order."""

    resize: Any
    buckets: tuple[tuple[int, int], ...]
    flip: bool = False

    def place(self, original: tuple[int, int], bucket: int) -> geometry.Geometry:
        """The geometry of an image of size `original` in the bucket of that number."""
        place = geometry.fixed(self.resize, original, self.buckets[bucket])
        return dataclasses.replace(place, flip=self.flip)


def of(config: Any) -> tuple[View, ...]:
    """The views that `config.eval.tta` asks for, the one whose pixels results are in first; without it, one.

    Raises:
      ValueError: as `check`.
    """
    check(config)
    data, tta = config.data, config.eval.get("tta")
    buckets = tuple(tuple(bucket) for bucket in data.buckets)
    if tta is None:  # a run of an earlier version
        return (View(data.eval_resize, buckets),)
    flips = (False, True) if tta.flip else (False,)
    return tuple(
        View(*_enlarged(data.eval_resize, buckets, short), flip=flip)
        for short in tuple(tta.scales) or (data.eval_resize.short,)
        for flip in flips
    )


def bucket_of(config: Any, size: tuple[int, int]) -> int:
    """The number of the bucket, in all views, of an image of size (height, width)."""
    data = config.data
    return geometry.choose_bucket(geometry.largest(data.eval_resize, size), data.buckets)


def check(config: Any) -> None:
    """Checks `config.eval.tta`, which runs of earlier versions lack.

    Raises:
      ValueError: a value without sense; the message has the key, the value, and what is allowed.
    """
    tta = config.eval.get("tta")
    if tta is None:
        return
    scales = tta.scales
    if not isinstance(scales, tuple | list) or not all(map(settings.is_size, scales)):
        raise ValueError(
            f"config.eval.tta.scales={scales!r}: a tuple of shorter sides in pixels, each at least 1, is needed, e.g. "
            "(600, 800, 1000); or () for the one of data.eval_resize alone."
        )
    if len(set(scales)) < len(scales):
        raise ValueError(
            f"config.eval.tta.scales={tuple(scales)}: a size that is there twice would count twice; name each once."
        )
    if not isinstance(tta.flip, bool):
        raise ValueError(f"config.eval.tta.flip={tta.flip!r}: allowed are True and False.")


def with_asked(
    config: ConfigDict, scales: Sequence[int | float] | None = None, flip: bool | None = None
) -> ConfigDict:
    """A copy of the config with other views; None leaves what it says itself.

    Raises:
      ValueError: as `check`.
    """
    config = config.copy_and_resolve_references()
    tta = dict(config.eval.get("tta") or {"scales": (), "flip": False})
    if scales is not None:
        tta["scales"] = tuple(scales)
    if flip is not None:
        tta["flip"] = flip
    with config.unlocked():
        config.eval.tta = ConfigDict(tta)
    check(config)
    return config


def scales_of(flag: Sequence[str] | None) -> tuple[int | float, ...] | None:
    """The sizes of a `--tta_scale` that may be given several times, each one number or several with commas between.

    None if it is not given.

    Raises:
      ValueError: what is no number.
    """
    if flag is None:
        return None
    parts = [part.strip() for value in flag for part in value.split(",")]
    return tuple(_number(part) for part in parts if part)


def _number(text: str) -> int | float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(
            f"--tta_scale={text}: a shorter side in pixels is needed, or several with commas between them, e.g. "
            "600,800,1000."
        ) from None
    return int(value) if value.is_integer() else value


def _enlarged(
    resize: Any, buckets: tuple[tuple[int, int], ...], short: int | float
) -> tuple[Any, tuple[tuple[int, int], ...]]:
    """`resize` to another shorter side, and buckets enlarged likewise, to multiples of the network's stride."""
    factor = short / resize.short
    if factor == 1.0:
        return resize, buckets

    def side(pixels: int) -> int:
        return math.ceil(round(pixels * factor / settings.STRIDE, 6)) * settings.STRIDE

    other = ConfigDict({**resize.to_dict(), "short": short, "max": resize.max * factor})
    return other, tuple((side(height), side(width)) for height, width in buckets)
