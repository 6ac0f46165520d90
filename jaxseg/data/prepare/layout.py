"""Where the files of a prepared data set are: `data_dir/NAME/VERSION/`, as tensorflow-datasets has it."""

from __future__ import annotations

import os
import re

VERSION = "1.0.0"  # of the records' form
WITHOUT_IMAGES = "_annotations"  # how the names of such splits end
NAME = re.compile(r"[a-z][a-z0-9_]*")


def folder(data_dir: str, name: str) -> str:
    return os.path.join(data_dir, name, VERSION)


def annotations_split(split: str) -> str:
    """The split with the same records without their images, for whom only wants the objects."""
    return f"{split}{WITHOUT_IMAGES}"


def shard(folder: str, name: str, split: str, number: int, count: int) -> str:
    """The file of shard `number` of `count`, from 0."""
    return os.path.join(folder, f"{name}-{split}.array_record-{number:05d}-of-{count:05d}")


def plan(folder: str, split: str) -> str:
    """The file that says what a split is made from; it is there from the beginning."""
    return os.path.join(folder, f"{split}.plan.json")


def index(folder: str, split: str) -> str:
    """The file that says what a split holds; it is there when the split is whole."""
    return os.path.join(folder, f"{split}.index.json")


def splits(folder: str) -> list[str]:
    """The whole splits."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(n.removesuffix(".index.json") for n in names if n.endswith(".index.json"))
