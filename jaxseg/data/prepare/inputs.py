"""A split before it is prepared: its images, where they are, and what is known of them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxseg.data import coco_format

_CHUNK = 1 << 22


@dataclasses.dataclass(frozen=True)
class Input:
    """One split to prepare.

    Attributes:
      split: its name.
      origin: path of the annotation file, or of the folder that stands for one.
      sha256: of what is in there.
      folder: where `files` are.
      ids, files: of the images, in the order of the annotations.
      top: everything else in the annotation file, with its `categories`.
      annotated: whether there are annotations.
      read: position -> (entry of the list `images`, its annotations).
    """

    split: str
    origin: str
    sha256: str
    folder: str
    ids: Sequence[int]
    files: Sequence[str]
    top: Mapping[str, Any]
    annotated: bool
    read: Callable[[int], tuple[dict[str, Any], list[dict[str, Any]]]]

    def path(self, position: int) -> str:
        return os.path.join(self.folder, self.files[position])

    def by_id(self) -> list[int]:
        """The positions in the order of the ids, which is that of the records."""
        return sorted(range(len(self.ids)), key=self.ids.__getitem__)


def from_json(split: str, annotations: str, folder: str) -> Input:
    """A split in COCO's format.

    Raises:
      FileNotFoundError: no such annotation file or folder.
      ValueError: as `coco_format.load`; no images.
    """
    for path, what in ((annotations, "Annotation file"), (folder, "Image folder")):
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"{what} {path} of split {split} does not exist. Check --images and --annotations, or leave the split "
                "out of --splits."
            )
    data = coco_format.load(annotations)
    entries = data.pop("images")
    if not entries:
        raise ValueError(f"{annotations}: the list 'images' is empty; there is nothing to prepare.")
    groups: dict[int, list[dict[str, Any]]] = {}
    for annotation in data.get("annotations", ()):
        groups.setdefault(annotation["image_id"], []).append(annotation)
    return Input(
        split=split,
        origin=annotations,
        sha256=sha256([annotations]),
        folder=folder,
        ids=[entry["id"] for entry in entries],
        files=[entry["file_name"] for entry in entries],
        top={key: value for key, value in data.items() if key != "annotations"},
        annotated="annotations" in data,
        read=lambda position: (entries[position], groups.get(entries[position]["id"], [])),
    )


def sha256(paths: Sequence[str], names: Sequence[str] = ()) -> str:
    """The digest of the files' contents, with that of `names`, if there are any, before each."""
    digest = hashlib.sha256()
    for number, path in enumerate(paths):
        if names:
            digest.update(f"{names[number]}\0{os.path.getsize(path)}\0".encode())
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
