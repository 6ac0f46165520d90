"""Pictures of results beside the ground truth."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from jaxseg import visualization
from jaxseg.data.source import ImageError
from jaxseg.evaluation import coco_input


def instances(
    entries: Sequence[Mapping], category_ids: Sequence[int], height: int, width: int
) -> visualization.Instances:
    """COCO annotations or results of one image of (height, width), as what `visualization` draws.

    Entries without a segmentation (crowds may be boxes alone) are left out.
    """
    entries = [entry for entry in entries if entry.get("segmentation")]
    index = {category_id: i for i, category_id in enumerate(category_ids)}
    boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    rles = [coco_input.to_rle(entry["segmentation"], height, width) for entry in entries]
    return visualization.Instances(
        boxes=boxes,
        classes=np.array([index[entry["category_id"]] for entry in entries], np.int64),
        scores=np.array([e["score"] for e in entries])
        if entries and "score" in entries[0]
        else None,
        masks=[mask_utils.decode(rle).astype(bool) for rle in rles],
    )


def compare(
    source: Any,
    results: Sequence[Mapping],
    path: str | os.PathLike,
    *,
    count: int = 6,
    score: float = 0.5,
    side: int = 480,
) -> pathlib.Path | None:
    """Writes a picture of predictions beside the ground truth for some images of a source.

    Args:
      source: a `jaxseg.data` source.
      results: COCO results of the source, or of its first images; no image after the last that they
        name is shown. Images with objects are preferred, evenly spread.
      path: .png or .jpg.
      count: the number of images, at most.
      score: results below it are not drawn.
      side: pixels of the longer side of each image; smaller images are enlarged to it.

    Returns:
      The path; None if the source is not annotated or has no image that can be read.
    """
    if not source.annotated:
        return None
    truth = source.coco()
    ids = [category.id for category in source.categories]
    names = [category.name for category in source.categories]
    rows = []
    for i in _spread(_evaluated(source, results), truth, count):
        info = source.infos[i]
        try:
            image = source.image(i)
        except ImageError:  # counted by the evaluation
            continue
        size = image.shape[:2]
        found = [r for r in results if r["image_id"] == info.id and r["score"] >= score]
        objects = [a for a in truth["annotations"] if a["image_id"] == info.id]
        pair = (instances(found, ids, *size), instances(objects, ids, *size))
        titles = (f"prediction, score >= {score:g}", "ground truth")
        rows.append(visualization.side_by_side(image, *pair, names, titles=titles, side=side))
    if not rows:
        return None
    return visualization.write_image(
        path, visualization.grid(rows, columns=2 if len(rows) > 2 else 1)
    )


def _evaluated(source: Any, results: Sequence[Mapping]) -> Sequence[Any]:
    """The infos up to the last image with a result: with `eval.max_images` none was sought after it."""
    found = {r["image_id"] for r in results}
    last = max((i for i, info in enumerate(source.infos) if info.id in found), default=0)
    return source.infos[: last + 1]


def _spread(infos: Sequence[Any], truth: Mapping, count: int) -> list[int]:
    """Indices of `count` images, evenly spread over those with objects, else over all."""
    filled = {a["image_id"] for a in truth["annotations"]}
    indices = [i for i, info in enumerate(infos) if info.id in filled]
    indices = indices or list(range(len(infos)))
    return (
        [indices[k * len(indices) // count] for k in range(count)]
        if len(indices) > count
        else indices
    )
