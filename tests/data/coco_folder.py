"""A small data set in COCO's format for the tests of this folder."""

from __future__ import annotations

import copy
import json
import pathlib
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict

from configs import common

HEIGHT, WIDTH = 40, 60
SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]


def annotation(number: int, image: int = 1, category: int = 3, **changes: Any) -> dict[str, Any]:
    """An object of 20 x 20 pixels at (10, 10); a change to None removes the key."""
    entry = {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [10, 10, 20, 20],
        "area": 400,
        "iscrowd": 0,
        "segmentation": SQUARE,
    } | changes
    return {key: value for key, value in entry.items() if value is not None}


def content(images: int = 3) -> dict[str, Any]:
    """`images` images with ids 1, 2, ...; categories 3 and 90; one object on each image but the last."""
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": 90, "name": "late"}, {"id": 3, "name": "early"}],
        "annotations": [annotation(i, i) for i in range(1, images)],
    }


def write(folder: pathlib.Path, data: Any) -> ConfigDict:
    """Writes `data` (a dictionary, or the text of the JSON file) with its images; returns a fitting config."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    text = data if isinstance(data, str) else json.dumps(data)
    (folder / "instances.json").write_text(text)
    entries = data.get("images", ()) if isinstance(data, dict) else ()
    for entry in entries:
        rng = np.random.default_rng(entry["id"])
        picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / entry["file_name"]), picture)
    config = small(common.base())
    config.data.root = str(folder)
    for split in ("train", "val"):
        config.data[split].images = "images"
        config.data[split].annotations = "instances.json"
    return config


def small(config: ConfigDict) -> ConfigDict:
    """Makes a config's inputs small, and keeps them in this process."""
    config = copy.deepcopy(config)
    config.data.buckets = ((64, 64),)
    config.data.resize.short, config.data.resize.max = (40,), 64
    config.data.resize.size = (64, 64)
    config.data.eval_resize.short, config.data.eval_resize.max = 40, 64
    config.data.mask_crop_size = 32
    config.data.max_instances = 5
    config.data.workers = 0
    config.train.batch_size = 4
    return config


def shapes(train: int = 12, val: int = 5) -> ConfigDict:
    config = small(common.base())
    config.data.source = "shapes"
    config.data.shapes.update(train=train, val=val, size=(48, 64), objects=(1, 4))
    return config
