"""The source `coco_json`: any data set in COCO's format, a folder of images and a JSON file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int, UInt8

from jaxseg.data import coco_format, images, source
from jaxseg.data import problems as problems_lib


class CocoJson:
    """A COCO-format data set, see `source.Source`.

    Annotations are held in a few flat arrays: a worker process gets its copy cheaply, and the memory does not
    grow with Python's object counts.

    Objects that cannot be used are left out, counted in `problems` and told in one warning, together with the images
    whose file is missing. Those stay in `infos`, marked, and in the ground truth.

    Args:
      annotations: path of the JSON file.
      folder: where the `file_name`s are.

    Raises:
      FileNotFoundError: no such JSON file or folder.
      ValueError: see `coco_format.load`; or not one of the images exists.
    """

    def __init__(self, annotations: str, folder: str):
        data = coco_format.load(annotations)
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f"Image folder {folder} does not exist. Set data.root and data.<split>.images."
            )
        self.path, self.folder = annotations, folder
        self.categories = coco_format.categories(data)
        self.annotated = "annotations" in data
        self.problems = problems_lib.Problems()
        entries = data["images"]
        missing = self._missing(entries)
        groups = _group(data.get("annotations", ()), entries, self.categories, self.problems)
        self._store = Store([[item for item, _ in group] for group in groups])
        self.infos = tuple(
            source.ImageInfo(
                e["id"],
                e["file_name"],
                e["height"],
                e["width"],
                sum(not i.crowd for i, _ in group),
                e["id"] in missing,
            )
            for e, group in zip(entries, groups, strict=True)
        )
        self._truth: dict[str, Any] | None = None
        warn_of_skipped(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_truth": None}  # workers do not need it

    def _missing(self, entries: list[dict[str, Any]]) -> set[int]:
        """Ids of the images that are not in the folder; raises ValueError if none is."""
        missing = {
            entry["id"]
            for entry in entries
            if not os.path.isfile(os.path.join(self.folder, entry["file_name"]))
        }
        if entries and len(missing) == len(entries):
            raise ValueError(
                f"None of the {len(entries)} images of {self.path} is in {self.folder} "
                f"(the first should be {entries[0]['file_name']}). Set data.<split>.images."
            )
        return missing

    def __len__(self) -> int:
        return len(self.infos)

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        info = self.infos[index]
        path = os.path.join(self.folder, info.file_name)
        if info.missing:
            raise source.ImageError("image file is missing", path)
        return images.read(path, (info.height, info.width))

    def instances(self, index: int) -> list[source.Instance]:
        return self._store.load(index, self.infos[index])

    def image_classes(self, index: int) -> Int[np.ndarray, "N"]:
        """The class index of each object and crowd, without decoding anything."""
        return self._store.classes(index)

    def coco(self) -> dict[str, Any]:
        """The JSON file's content without skipped objects; missing ids, boxes and areas are filled in.

        It is read when it is first asked for, and kept: do not change it.
        """
        if self._truth is None:
            self._truth = self._read_truth()
        return self._truth

    def _read_truth(self) -> dict[str, Any]:
        return complete(coco_format.load(self.path), self.categories)


def warn_of_skipped(opened: source.Source) -> None:
    """Tells in one warning what of a source with a `path` is missing or cannot be used."""
    told = problems_lib.Problems()
    for info in opened.infos:
        if info.missing:
            told.add("image file is missing", info.file_name)
    parts = [problems.summary() for problems in (told, opened.problems) if problems.total()]
    if parts:
        logging.warning("%s: skipped %s", opened.path, "; ".join(parts))


def complete(data: dict[str, Any], categories: Sequence[source.Category]) -> dict[str, Any]:
    """A COCO file's content without objects that cannot be used, and with the ids, boxes and areas that it lacks."""
    annotations = []
    groups = _group(
        data.get("annotations", ()), data["images"], categories, problems_lib.Problems()
    )
    for group in groups:
        for item, original in group:
            x0, y0, x1, y1 = map(float, item.box)
            defaults = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": item.area, "iscrowd": 0}
            given = {key: value for key, value in original.items() if value is not None}
            annotations.append(defaults | given)
    ids = [annotation.get("id") for annotation in annotations]
    # The evaluators take the id 0 for "no match" and mix up objects that share one.
    if len(set(ids)) < len(ids) or not all(type(i) is int and i > 0 for i in ids):
        for number, annotation in enumerate(annotations, 1):
            annotation["id"] = number
    return {**data, "annotations": annotations}


def _group(annotations, entries, categories, problems):
    """Usable objects of each image entry, as (Instance, original annotation), in the file's order."""
    position = {entry["id"]: i for i, entry in enumerate(entries)}
    class_index = {category.id: i for i, category in enumerate(categories)}
    groups: list[list[tuple[source.Instance, dict[str, Any]]]] = [[] for _ in entries]
    for annotation in annotations:
        image = position[annotation["image_id"]]
        entry = entries[image]
        item = coco_format.normal_form(
            annotation,
            entry["height"],
            entry["width"],
            class_index[annotation["category_id"]],
            problems,
        )
        if item is not None:
            groups[image].append((item, annotation))
    return groups


class Store:
    """Instances of all images in flat arrays; segmentations as bytes, one after another."""

    def __init__(self, groups: list[list[source.Instance]]):
        items = [item for group in groups for item in group]
        self._first = np.cumsum([0] + [len(group) for group in groups])
        self._classes = np.array([item.class_index for item in items], np.int32)
        self._boxes = np.array([item.box for item in items], np.float32).reshape(-1, 4)
        self._areas = np.array([item.area for item in items], np.float32)
        self._crowd = np.array([item.crowd for item in items], bool)
        blobs = [_encode(item) for item in items]
        self._offsets = np.cumsum([0] + [len(blob) for blob in blobs])
        self._blob = b"".join(blobs)

    def classes(self, index: int) -> np.ndarray:
        return self._classes[self._first[index] : self._first[index + 1]]

    def load(self, index: int, info: source.ImageInfo) -> list[source.Instance]:
        return [
            source.Instance(
                int(self._classes[i]),
                self._boxes[i].copy(),
                self._decode(i, info),
                float(self._areas[i]),
                bool(self._crowd[i]),
            )
            for i in range(self._first[index], self._first[index + 1])
        ]

    def _decode(self, i: int, info: source.ImageInfo) -> Any:
        start, end = int(self._offsets[i]), int(self._offsets[i + 1])
        if start == end:
            return None
        (parts,) = np.frombuffer(self._blob, np.int32, 1, start)
        if parts < 0:
            return {"size": [info.height, info.width], "counts": self._blob[start + 4 : end]}
        lengths = np.frombuffer(self._blob, np.int32, parts, start + 4)
        points = np.frombuffer(self._blob, np.float32, lengths.sum(), start + 4 + 4 * parts)
        return tuple(np.split(points, np.cumsum(lengths)[:-1]))


def _encode(item: source.Instance) -> bytes:
    """int32 number of polygons, their lengths, float32 coordinates; or int32 -1 and an RLE's counts."""
    if item.crowd:  # crowds are boxes to us
        return b""
    if isinstance(item.segmentation, dict):
        return np.int32(-1).tobytes() + item.segmentation["counts"]
    lengths = [len(item.segmentation), *(polygon.size for polygon in item.segmentation)]
    points = np.concatenate(item.segmentation)
    return np.array(lengths, np.int32).tobytes() + points.astype(np.float32).tobytes()
