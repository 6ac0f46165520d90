"""The images and classes of a test split, which a submission is checked against."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from jaxseg.data import coco_format
from jaxseg.data.source import Source


@dataclasses.dataclass(frozen=True)
class Listing:
    """By image id: (height, width) in pixels, and the file's name; by category id: the class's name."""

    sizes: Mapping[int, tuple[int, int]]
    files: Mapping[int, str]
    categories: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.sizes)


def of_source(source: Source) -> Listing:
    """The listing of an opened split."""
    return Listing(
        {info.id: (info.height, info.width) for info in source.infos},
        {info.id: info.file_name for info in source.infos},
        {category.id: category.name for category in source.categories},
    )


def read(path: str | os.PathLike) -> Listing:
    """The listing in a JSON file of COCO's format with `images` and `categories`, e.g. image_info_test-dev2017.json.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is not in that format.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"There is no image list {os.fspath(path)}: --images takes the JSON file of the split, e.g. "
            "image_info_test-dev2017.json."
        )
    data = coco_format.load(os.fspath(path))
    return Listing(
        {image["id"]: (image["height"], image["width"]) for image in data["images"]},
        {image["id"]: image["file_name"] for image in data["images"]},
        {category.id: category.name for category in coco_format.categories(data)},
    )
