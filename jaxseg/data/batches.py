"""Assembling a planned batch from its images. This runs in the workers: NumPy and OpenCV only."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxseg.data import entries, geometry, plan, source
from jaxseg.data import views as views_lib


@dataclasses.dataclass(frozen=True)
class Options:
    """What of `config.data` shapes a batch; plain values, cheap to send to a worker."""

    buckets: tuple[tuple[int, int], ...]
    resize: Any
    eval_resize: Any
    flip: float
    max_instances: int
    max_crowds: int
    mask_crop_size: int
    eroded_masks: float = 0.0  # runs of earlier versions have none

    @classmethod
    def of(cls, data: Any) -> Options:
        there = (field.name for field in dataclasses.fields(cls) if field.name in data)
        values = {name: data[name] for name in there}
        return cls(**values | {"buckets": tuple(tuple(bucket) for bucket in data.buckets)})


class Train:
    """Random access to the training batches of `steps`, each a dictionary of arrays, in this host's slice."""

    def __init__(
        self,
        source_: source.Source,
        options: Options,
        seed: int,
        members: np.ndarray,
        train_plan: plan.TrainPlan,
        steps: range,
        host: tuple[int, int],
    ):
        self._source, self._options, self._seed = source_, options, seed
        self._members, self._plan, self._steps, self._host = members, train_plan, steps, host

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, planned = self._plan.batch_at(self._steps[index])
        planned = planned.slice(*self._host)
        bucket = self._options.buckets[planned.bucket]
        out = _blank(len(planned.images), bucket, self._options, targets=True)
        problems: list[tuple[str, str]] = []
        for slot, position in enumerate(planned.images):
            image = int(self._members[position])
            info = self._source.infos[image]
            rng = plan.image_rng(self._seed, epoch, info.id, int(planned.repeats[slot]))
            place = geometry.draw(
                self._options.resize, self._options.flip, (info.height, info.width), bucket, rng
            )
            if _put_image(out, slot, self._source, image, [place], problems):
                objects = entries.make_objects(
                    self._source.instances(image),
                    place,
                    max_instances=self._options.max_instances,
                    max_crowds=self._options.max_crowds,
                    mask_crop_size=self._options.mask_crop_size,
                    eroded_masks=self._options.eroded_masks,
                )
                _put_objects(out, slot, objects)
        return {**out, "problems": json.dumps(problems)}


class Eval:
    """Random access to evaluation batches, each a dictionary of arrays without targets."""

    def __init__(
        self,
        source_: source.Source,
        options: Options,
        batches: Sequence[plan.Planned],
        views: Sequence[views_lib.View],
    ):
        self._source, self._options, self._batches = source_, options, batches
        self._views = views

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        planned = self._batches[index]
        out: dict[str, np.ndarray] = {}
        for number, view in enumerate(self._views):
            bucket = view.buckets[planned.bucket]
            blank = _blank(len(planned.images), bucket, self._options, targets=False)
            # What is not of a view is that of the first.
            out = {view_key(k, number) if k in OF_A_VIEW else k: v for k, v in blank.items()} | out
        problems: list[tuple[str, str]] = []
        for slot, image in enumerate(map(int, planned.images)):
            if image >= 0:
                info = self._source.infos[image]
                size = info.height, info.width
                places = [view.place(size, planned.bucket) for view in self._views]
                _put_image(out, slot, self._source, image, places, problems)
        if len(self._views) > 1:
            out["flips"] = np.array([view.flip for view in self._views])
        return {**out, "problems": json.dumps(problems)}


OF_A_VIEW = ("images", "image_size")


def view_key(name: str, number: int) -> str:
    """What an array of one view is called in a batch; the first one as where there is but one."""
    return f"{name}{number or ''}"


def _blank(
    count: int, bucket: tuple[int, int], options: Options, *, targets: bool
) -> dict[str, np.ndarray]:
    dtype = geometry.dtype(options.resize if targets else options.eval_resize)
    out = {
        "images": np.zeros((count, *bucket, 3), dtype),
        "image_size": np.tile(np.array(bucket, np.float32), (count, 1)),
        "valid": np.zeros(count, bool),
        "image_ids": np.full(count, -1, np.int64),
        "original_size": np.tile(np.array(bucket, np.int32), (count, 1)),
    }
    if targets:
        n, m, s = options.max_instances, options.max_crowds, options.mask_crop_size
        out |= {
            "boxes": np.zeros((count, n, 4), np.float32),
            "classes": np.zeros((count, n), np.int32),
            "object_valid": np.zeros((count, n), bool),
            "masks": np.zeros((count, n, s, s // 8), np.uint8),
            "crowd_boxes": np.zeros((count, m, 4), np.float32),
            "crowd_valid": np.zeros((count, m), bool),
        }
        if options.eroded_masks:
            out["eroded"] = np.zeros_like(out["masks"])
    return out


def _put_image(
    out: dict[str, np.ndarray],
    slot: int,
    source_: source.Source,
    index: int,
    places: Sequence[geometry.Geometry],
    problems: list[tuple[str, str]],
) -> bool:
    """Puts an image into its slot, of every view. One that cannot be read leaves it invalid, and False is returned."""
    info = source_.infos[index]
    out["image_ids"][slot] = info.id
    out["original_size"][slot] = info.height, info.width
    try:
        image = source_.image(index)
    except source.ImageError as error:
        problems.append((error.reason, error.path))
        return False
    for number, place in enumerate(places):
        height, width = place.size
        out[view_key("images", number)][slot, :height, :width] = place.image(image)
        out[view_key("image_size", number)][slot] = place.size
    out["valid"][slot] = True
    return True


def _put_objects(out: dict[str, np.ndarray], slot: int, objects: entries.Objects) -> None:
    n, m = len(objects.boxes), len(objects.crowd_boxes)
    out["boxes"][slot, :n] = objects.boxes
    out["classes"][slot, :n] = objects.classes
    out["object_valid"][slot, :n] = True
    out["masks"][slot, :n] = objects.masks
    if objects.eroded is not None:
        out["eroded"][slot, :n] = objects.eroded
    out["crowd_boxes"][slot, :m] = objects.crowd_boxes
    out["crowd_valid"][slot, :m] = True
