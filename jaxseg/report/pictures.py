"""Pictures of a page: ground truth and predictions of the same images beside each other, as JPEG within the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from jaxseg import visualization
from jaxseg.data.source import ImageError
from jaxseg.evaluation import pictures

BUDGET = 4_000_000  # bytes of all pictures of a sheet
_QUALITIES = (82, 70, 55, 40, 25)
_LEAST_SIDE = 160
TRUTH = "ground truth"


def choose(source: Any, count: int, limit: int | None = None) -> list[int]:
    """Ids of `count` images, evenly spread over those with objects, else over all whose file is there.

    Args:
      source: a `jaxseg.data` source.
      count: how many, at most.
      limit: only of the first so many images, as with `eval.max_images`.
    """
    infos = [info for info in source.infos[: limit or None] if not info.missing]
    infos = [info for info in infos if info.num_objects] or infos
    if len(infos) > count:
        infos = [infos[k * len(infos) // count] for k in range(count)]
    return [info.id for info in infos]


def sheet(
    source: Any,
    image_ids: Sequence[int],
    results: Mapping[str, Sequence[Mapping]],
    *,
    score: float | Mapping[str, float] = 0.5,
    side: int = 480,
    budget: int = BUDGET,
) -> list[dict[str, Any]]:
    """Draws images with their ground truth and with the results of each label.

    Args:
      source: a `jaxseg.data` source; without annotations the ground truth is left out.
      image_ids: of the images; those that cannot be read are left out.
      results: label -> COCO results.
      score: results below it are not drawn; one for all, or one for each label.
      side: pixels of the longer side of each picture, at most: fewer where `budget` asks for it.
      budget: bytes of all pictures together, at most.

    Returns:
      For each image, in order: first the ground truth, then a picture for each label, each a dict of `title` (plain
      text), `uri` (a data URI), `image` (the id), `position` (0, 1, ... of the image), `file_name`, `label`, `count`
      (objects drawn), `width` and `height`.
    """
    index = {info.id: i for i, info in enumerate(source.infos)}
    image_ids = [i for i in image_ids if i in index]
    ids = [category.id for category in source.categories]
    names = [category.name for category in source.categories]
    columns: dict[str, dict[int, list]] = {}
    if source.annotated:
        columns[TRUTH] = _by_image(source.coco()["annotations"], image_ids, ids)
    for label, found in results.items():
        least = score[label] if isinstance(score, Mapping) else score
        kept = _by_image(found, image_ids, ids, least)
        columns[label if label not in columns else f"{label} (results)"] = kept
    share = budget // max(1, len(image_ids) * len(columns))
    shown = []
    for position, image_id in enumerate(image_ids):
        info = source.infos[index[image_id]]
        try:
            image = source.image(index[image_id])
        except ImageError:
            continue
        for label, entries in columns.items():
            instances = pictures.instances(entries[image_id], ids, *image.shape[:2])
            data, size = _jpeg(image, instances, names, side, share)
            shown.append(
                dict(
                    title=f"{info.file_name}: {label} ({len(instances)})",
                    uri=f"data:image/jpeg;base64,{base64.b64encode(data).decode()}",
                    image=image_id,
                    position=position,
                    file_name=info.file_name,
                    label=label,
                    count=len(instances),
                    height=size[0],
                    width=size[1],
                )
            )
    return shown


def _by_image(
    entries: Sequence[Mapping], image_ids: Sequence[int], ids: Sequence[int], score: float = 0.0
) -> dict[int, list[Mapping]]:
    """The entries of each image, without unknown classes and scores under `score`."""
    found: dict[int, list[Mapping]] = {image_id: [] for image_id in image_ids}
    known = set(ids)
    for entry in entries:
        shown = entry["category_id"] in known and entry.get("score", 1.0) >= score
        if shown and entry["image_id"] in found:
            found[entry["image_id"]].append(entry)
    return found


def _jpeg(
    image: np.ndarray,
    instances: visualization.Instances,
    names: Sequence[str],
    side: int,
    share: int,
) -> tuple[bytes, tuple[int, int]]:
    """A JPEG of at most `share` bytes in base64, if that can be had at all, and its (height, width)."""
    picture = visualization.draw(image, instances, names, side=side)
    while True:
        zoom = side / max(picture.shape[:2])
        if zoom < 1:
            size = tuple(max(1, round(n * zoom)) for n in picture.shape[1::-1])
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        for quality in _QUALITIES:
            options = [cv2.IMWRITE_JPEG_QUALITY, quality]
            data = cv2.imencode(".jpg", picture[..., ::-1], options)[1].tobytes()
            if len(data) * 4 / 3 <= share:
                return data, picture.shape[:2]
        if side <= _LEAST_SIDE:
            return data, picture.shape[:2]
        side = max(_LEAST_SIDE, side * 3 // 4)
