"""Data sets for the tests of prepared ones."""

from __future__ import annotations

import io
import json
import pathlib
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils
from rich.console import Console

from jaxseg.data.prepare import options as options_lib
from jaxseg.data.prepare import run
from tests.data import coco_folder

HEIGHT, WIDTH = coco_folder.HEIGHT, coco_folder.WIDTH


def awkward(images: int = 7) -> dict[str, Any]:
    """Images not in the order of their ids, objects of every form, some of no use, keys that nobody knows."""
    data = coco_folder.content(images)
    data["info"] = {"year": 2017, "note": "ünïcode"}
    data["licenses"] = [{"id": 1, "url": "x"}]
    data["categories"][0]["supercategory"] = "thing"
    data["images"] = data["images"][::-2] + data["images"][-2::-2]
    data["images"][0] |= {"license": 1, "coco_url": "http://a/b.jpg", "void": None}
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[5:20, 7:31] = 1
    mask[8:12, 10:14] = 0
    compressed = mask_utils.encode(mask)
    counts = np.diff(np.flatnonzero(np.diff(mask.ravel("F"), prepend=2, append=2))).tolist()
    runs = {"size": [HEIGHT, WIDTH], "counts": [counts[0], *counts[1:]]}
    text = {"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()}
    make, two = coco_folder.annotation, [[1.5, 2, 9, 2, 9, 8.25], [0.1, 0.2, 5, 5, 1 / 3, 7]]
    data["annotations"] += [
        make(100, 1, 90, segmentation=two, bbox=[0.1, 0.2, 1 / 3, 7.0], area=12.345678901234567),
        make(101, 2, segmentation=text, extra={"a": [1, None]}),
        make(102, 2, segmentation=runs, iscrowd=1),
        make(103, 1, iscrowd=True, segmentation=None),
        make(104, 3, area=None, bbox=None),
        make(105, 3, area=-1),
        make(106, 3, bbox=[100, 100, 5, 5]),
        make(107, 3, segmentation=[[1, 2]]),
        make(108, 4) | {"iscrowd": None, "area": None},
        make(109, 4, bbox=[2**60, 1, 2, 3]),
        make(110, 4, bbox="none"),
    ]
    return data


def write(folder: pathlib.Path, split: str, data: dict[str, Any]) -> None:
    """`folder`/annotations/instances_SPLIT.json and the images in `folder`/SPLIT."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
    write_images(folder / split, data)


def write_images(folder: pathlib.Path, data: dict[str, Any]) -> None:
    for entry in data["images"]:
        path = folder / entry["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(entry["id"])
        cv2.imwrite(str(path), rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8))


def prepare(
    folder: pathlib.Path, data_dir: pathlib.Path, kind: str = "folder", **changes: Any
) -> str:
    """Prepares what `write` wrote; returns what is told."""
    given = {
        "kind": kind,
        "images": str(folder),
        "annotations": str(folder / "annotations"),
        "data_dir": str(data_dir),
    }
    told = io.StringIO()
    run.prepare(options_lib.Options(**given | changes), Console(file=told, width=1000))
    return told.getvalue()


def content(folder: pathlib.Path) -> dict[str, bytes]:
    """The files below a folder; those without content (locks) are left out."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in files.items() if data}
