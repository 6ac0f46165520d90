"""Opening the data source that a config names."""

from __future__ import annotations

import os
from typing import Any

from jaxseg.data import coco_json, shapes, tfds_source
from jaxseg.data.source import Category, ImageError, ImageInfo, Instance, Source

__all__ = ["Category", "ImageError", "ImageInfo", "Instance", "Source", "open_source", "splits"]


def open_source(data: Any, split: str) -> Source:
    """Opens one split of the data set that `config.data` describes.

    Args:
      data: `config.data`, see configs/common.py.
      split: "train", "val" or any other key of `data` that holds `images` and `annotations`; of a prepared data set,
        any split that it has. A dash is read as an underscore.

    Raises:
      ValueError: unknown source or split, a split whose keys are empty, or a faulty annotation file.
      FileNotFoundError: the folder or the annotation file does not exist.
      ImportError: a package for prepared data sets is not installed.
    """
    split, root = split.replace("-", "_"), os.path.expanduser(data.root)
    if data.source == "shapes":
        return shapes.open_split(data.shapes, split)
    if data.source == "coco_json":
        return _open_coco(data, root, split)
    if data.source == "tfds":
        return tfds_source.TfdsSource(root, data.tfds.name, split)
    raise ValueError(f"data.source={data.source!r}: allowed are coco_json, shapes and tfds.")


def splits(data: Any) -> set[str]:
    """The keys of `config.data` that say where a split lies."""
    return {key for key, value in data.items() if hasattr(value, "keys") and "images" in value}


def _open_coco(data: Any, root: str, split: str) -> coco_json.CocoJson:
    known = splits(data)
    if split not in known:
        raise ValueError(
            f"Unknown split {split!r}: data has {', '.join(sorted(known)) or 'no splits'}."
        )
    unset = [f"data.{split}.{key}" for key in ("images", "annotations") if not data[split][key]]
    if unset:
        raise ValueError(
            f"{' and '.join(unset)} of the split {split!r} not set: give the folder of its images (. for data.root "
            f"itself) and its JSON file, e.g. --config.data.{split}.images={split} "
            f"--config.data.{split}.annotations=annotations/instances_{split}.json."
        )
    if not root and not os.path.exists(data[split].annotations):
        raise FileNotFoundError(
            f"Annotation file {data[split].annotations} does not exist here, and data.root is empty: set "
            "data.root to the folder of the data set, e.g. --config.data.root=DIR."
        )
    annotations = os.path.join(root, data[split].annotations)
    return coco_json.CocoJson(annotations, os.path.join(root, data[split].images))
