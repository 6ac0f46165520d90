"""Cityscapes' pictures of instance ids (gtFine/*_instanceIds.png) in COCO's form.

A pixel's value is 1000 x class + number for an instance, and the class alone where there are no instances or where
several could not be told apart. The form that this becomes keeps what the official evaluation looks at:

- An instance of the eight classes that count is an object: its visible pixels as RLE, in all their parts.
- A value below 1000 of such a class is a group: a crowd of that class.
- The pixels of labels that the evaluation ignores are the image's `void`, an RLE. As there, an instance of a caravan
  or a trailer is not void (only a group of them is), and it is no object either.

Category ids are Cityscapes' label ids.
"""

from __future__ import annotations

import glob
import hashlib
import os
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Int
from PIL import Image
from pycocotools import mask as mask_utils

from jaxseg.data import cityscapes_classes
from jaxseg.data import images as images_lib
from jaxseg.data.prepare import inputs

CLASSES = dict(cityscapes_classes.CLASSES)
# unlabeled, ego vehicle, rectification border, out of roi, static, dynamic, ground; parking, rail track; guard rail,
# bridge, tunnel; polegroup; groups of caravans and of trailers. License plates (-1) are never drawn.
VOID = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
_IMAGE, _IDS = "_leftImg8bit.png", "_gtFine_instanceIds.png"
_OBJECTS = 10_000  # annotation ids an image


def open_split(split: str, images: str, annotations: str) -> inputs.Input:
    """A split of Cityscapes; `test`, whose annotations are not public, is without any.

    Images are numbered from 1 in the order of their names.

    Args:
      images: the folder leftImg8bit.
      annotations: the folder gtFine.

    Raises:
      FileNotFoundError: there are no pictures.
    """
    folder = os.path.join(images, split)
    annotated = split != "test"
    where = os.path.join(annotations if annotated else images, split)
    ending = _IDS if annotated else _IMAGE
    found = sorted(glob.glob(os.path.join(glob.escape(where), "*", f"*{ending}")))
    if not found:
        raise FileNotFoundError(
            f"There are no files */*{ending} in {where}. Give the folder leftImg8bit as --images and gtFine as "
            "--annotations, or leave the split out of --splits."
        )
    stems = [
        os.path.relpath(path, where).removesuffix(ending).replace(os.sep, "/") for path in found
    ]
    files = [f"{stem}{_IMAGE}" for stem in stems]

    def read(position: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        number = position + 1
        if annotated:
            ids = read_ids(found[position])
            _check_size(ids, found[position], os.path.join(folder, files[position]))
            return convert(ids, number, files[position])
        height, width = images_lib.read(found[position]).shape[:2]
        return {"id": number, "file_name": files[position], "height": height, "width": width}, []

    names = hashlib.sha256("\n".join(files).encode()).hexdigest()
    return inputs.Input(
        split=split,
        origin=where,
        sha256=inputs.sha256(found, stems) if annotated else names,
        folder=folder,
        ids=range(1, len(files) + 1),
        files=files,
        top={"categories": [{"id": i, "name": name} for i, name in CLASSES.items()]},
        annotated=annotated,
        read=read,
    )


def read_ids(path: str) -> Int[np.ndarray, "H W"]:
    """The pixel values of a picture of instance ids.

    Raises:
      ValueError: it is no such picture.
    """
    ids = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    if ids is None:
        raise ValueError(f"{path} is damaged or no picture. Unpack it again.")
    if ids.ndim != 2:
        raise ValueError(
            f"{path} has {ids.shape[2]} channels; a picture of instance ids has one, of 16 bits."
        )
    if ids.dtype != np.uint16:
        raise ValueError(
            f"{path} has {8 * ids.dtype.itemsize} bits a pixel; a picture of instance ids has 16. Is it one of label "
            "ids?"
        )
    return ids.astype(np.int32)


def _check_size(ids: Int[np.ndarray, "H W"], path: str, image: str) -> None:
    """Raises ValueError where the image is there and has another size; a missing one is told elsewhere."""
    try:
        with Image.open(image) as opened:
            width, height = opened.size
    except OSError:  # missing, or damaged, which is told where it is read
        return
    if ids.shape != (height, width):
        raise ValueError(
            f"{path} has {ids.shape[0]} x {ids.shape[1]} pixels (height x width) and {image} has {height} x {width}: "
            "they are not of one picture. Unpack both again."
        )


def convert(
    ids: Int[np.ndarray, "H W"], number: int, file_name: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The image's entry with its `void`, and its annotations in the order of the pixel values."""
    height, width = map(int, ids.shape)
    runs = Runs(ids)
    void = runs.rle(np.isin(runs.values, VOID))
    entry = {"id": number, "file_name": file_name, "height": height, "width": width}
    entry["void"] = _text(void)
    annotations = []
    for value in np.unique(runs.values).tolist():
        category, crowd = (value // 1000, 0) if value >= 1000 else (value, 1)
        if category not in CLASSES:
            continue
        rle = runs.rle(runs.values == value)
        annotations.append(
            {
                "id": number * _OBJECTS + len(annotations) + 1,
                "image_id": number,
                "category_id": category,
                "instance_id": value,
                "bbox": mask_utils.toBbox(rle).tolist(),
                "area": int(mask_utils.area(rle)),
                "iscrowd": crowd,
                "segmentation": _text(rle),
            }
        )
    return entry, annotations


class Runs:
    """The runs of equal values down the columns of a picture; `values` has the value of each."""

    def __init__(self, ids: Int[np.ndarray, "H W"]):
        flat = ids.ravel(order="F")
        edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        self._size, self._pixels = list(map(int, ids.shape)), flat.size
        self._starts = np.concatenate(([0], edges))
        self._ends = np.concatenate((edges, [flat.size]))
        self.values = flat[self._starts]

    def rle(self, chosen: Bool[np.ndarray, "R"]) -> dict[str, Any]:
        """The compressed RLE of the pixels of the chosen runs."""
        padded = np.concatenate(([False], chosen, [False]))
        starts = self._starts[chosen & ~padded[:-2]]
        ends = self._ends[chosen & ~padded[2:]]
        bounds = np.concatenate(([0], np.stack((starts, ends), 1).ravel(), [self._pixels]))
        counts = np.diff(bounds).tolist()
        if counts[-1] == 0:
            counts.pop()
        return mask_utils.frPyObjects({"size": self._size, "counts": counts}, *self._size)


def _text(rle: dict[str, Any]) -> dict[str, Any]:
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
