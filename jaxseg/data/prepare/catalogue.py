"""The data sets that can be prepared: their splits, where those are, and how many images were published."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

from jaxseg.data.prepare import cityscapes, inputs, layout


@dataclasses.dataclass(frozen=True)
class Split:
    """Folder of the images and name of the annotation file, below what was given; how many images there should be."""

    images: str
    annotations: str
    published: int | None = None


@dataclasses.dataclass(frozen=True)
class Kind:
    """A data set: the name it is kept under, its splits, and the keys of an image that have a feature of their own."""

    name: str
    splits: Mapping[str, Split]
    extras: tuple[str, ...] = ()


KINDS = {
    "coco": Kind(
        "coco2017",
        {
            "train": Split("train2017", "instances_train2017.json", 118_287),
            "val": Split("val2017", "instances_val2017.json", 5_000),
            "test_dev": Split("test2017", "image_info_test-dev2017.json", 20_288),
            "test_challenge": Split("test2017", "image_info_test2017.json", 40_670),
            "unlabeled": Split("unlabeled2017", "image_info_unlabeled2017.json", 123_403),
        },
    ),
    "lvis": Kind(
        "lvis_v1",
        {
            "train": Split("", "lvis_v1_train.json", 100_170),
            "val": Split("", "lvis_v1_val.json", 19_809),
        },
        ("neg_category_ids", "not_exhaustive_category_ids"),
    ),
    "cityscapes": Kind(
        "cityscapes_instances",
        {
            "train": Split("train", "train", 2_975),
            "val": Split("val", "val", 500),
            "test": Split("test", "test", 1_525),
        },
        ("void",),
    ),
    "folder": Kind("own", {}),  # its splits are what its files are called
}
_SPLIT = "{split}"


def split_names(kind: str, given: Sequence[str], annotations: str) -> list[str]:
    """The splits to prepare: those that are named ("test-dev" is "test_dev"), otherwise train and val.

    Of a folder, by default those of train, val and test that have an annotation file.

    Raises:
      ValueError: an unknown split, or one that is named twice.
      FileNotFoundError: a folder without annotation files.
    """
    names = [name.replace("-", "_") for name in given]
    known = KINDS[kind].splits
    for name in names:
        if name.endswith(layout.WITHOUT_IMAGES):
            raise ValueError(
                f"--splits: {name!r}: a name that ends in {layout.WITHOUT_IMAGES} is that of another split's objects "
                "without their images. Choose another."
            )
        if known and name not in known:
            raise ValueError(
                f"--splits: {kind} has no split {name!r}; allowed are {', '.join(known)}."
            )
        if not name.isidentifier() or names.count(name) > 1:
            raise ValueError(f"--splits={','.join(given)}: {name!r} is no name, or is there twice.")
    if names or known:
        return names or ["train", "val"]
    found = [
        s for s in ("train", "val", "test") if os.path.exists(_annotation_file(annotations, s))
    ]
    if not found:
        raise FileNotFoundError(
            f"There is no {_annotation_file(annotations, 'train')}, nor one for val or test. Give the folder of the "
            "files instances_SPLIT.json as --annotations, or their path with {split} in the place of the name."
        )
    return found


def published(kind: str, split: str) -> int | None:
    known = KINDS[kind].splits.get(split)
    return known.published if known else None


def open_input(kind: str, split: str, images: str, annotations: str) -> inputs.Input:
    """Opens a split of the downloads.

    Args:
      images: COCO, LVIS: the folder with train2017, val2017, ...; Cityscapes: leftImg8bit; folder: the one with a
        folder SPLIT, or with the images themselves, or a path with {split} in it.
      annotations: the folder of the JSON files, or for a folder a path with {split} in it; Cityscapes: gtFine.

    Raises:
      FileNotFoundError, ValueError: see `inputs.from_json` and `cityscapes.open_split`.
    """
    if kind == "cityscapes":
        return cityscapes.open_split(split, images, annotations)
    if kind == "folder":
        return inputs.from_json(
            split, _annotation_file(annotations, split), image_folder(kind, split, images)
        )
    path = os.path.join(annotations, KINDS[kind].splits[split].annotations)
    return inputs.from_json(split, path, image_folder(kind, split, images))


def image_folder(kind: str, split: str, images: str) -> str:
    """Where the images of a split are."""
    if kind != "folder":
        return os.path.join(images, KINDS[kind].splits[split].images)
    if _SPLIT in images:
        return images.replace(_SPLIT, split)
    below = os.path.join(images, split)
    return below if os.path.isdir(below) else images


def _annotation_file(annotations: str, split: str) -> str:
    if _SPLIT in annotations:
        return annotations.replace(_SPLIT, split)
    return os.path.join(annotations, f"instances_{split}.json")
