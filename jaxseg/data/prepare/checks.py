"""What a split lacks, and annotation files of another split. Nothing is written yet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent import futures
from typing import Any

from jaxseg.data import coco_format
from jaxseg.data.prepare import catalogue, inputs
from jaxseg.data.prepare.options import Options

_THREADS = 16  # for folders that are far away
_SHOWN = 3


def sizes(given: inputs.Input) -> list[int]:
    """The size of each image file in bytes; -1 where there is none."""
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_size, map(given.path, range(len(given.files))), chunksize=256))


def _size(path: str) -> int:
    try:
        return os.path.getsize(path) if os.path.isfile(path) else -1
    except OSError:
        return -1


def check(
    options: Options, given: inputs.Input, found: list[int], whole: Sequence[dict[str, Any]]
) -> list[str]:
    """Sees to it that a split is what it should be; returns what it lacks, if it may.

    Args:
      found: from `sizes`.
      whole: the indices of the splits that there are.

    Raises:
      ValueError: it is another split or of another data set, or not whole and `options.partial` is not set.
    """
    _other_split(options.kind, given, options.images, found)
    for other in whole:
        if other["split"] != given.split:
            _other_content(options.kind, given, other)
    told = lacking(options.kind, given, found)
    if told and not options.partial:
        raise ValueError(
            f"Split {given.split} is not whole: {'; '.join(told)}. Complete the download (or give the right --images "
            "and --annotations), or take what is there with --partial."
        )
    if max(found) < 0:
        raise ValueError(f"Not one image of split {given.split} is there: {'; '.join(told)}.")
    return told


def _other_split(kind: str, given: inputs.Input, images: str, found: list[int]) -> None:
    """Sees to it that the annotation file is that of its split.

    Raises:
      ValueError: it has as many images as another split has, or its images are in another split's folder.
    """
    number, known = len(given.ids), catalogue.KINDS[kind].splits
    if number != catalogue.published(kind, given.split):
        same = [name for name, split in known.items() if split.published == number]
        if same:
            raise ValueError(
                f"{given.origin} is to be split {given.split}, but its {number:,} images are as many as {kind} has in "
                f"split {same[0]}. Give each split its own annotation file."
            )
    missing = [position for position, size in enumerate(found) if size < 0]
    if len(missing) < number:
        return
    for other in [name for name in known or ("train", "val", "test") if name != given.split]:
        folder = catalogue.image_folder(kind, other, images)
        if os.path.realpath(folder) != os.path.realpath(given.folder) and all(
            os.path.isfile(os.path.join(folder, given.files[position])) for position in missing
        ):
            raise ValueError(
                f"{given.origin} is to be split {given.split}, but none of its images is in {given.folder} and all are "
                f"in {folder}: it is the annotation file of split {other}, or the images of split {given.split} are "
                "not there. Give each split its own annotation file and images."
            )


def _other_content(kind: str, given: inputs.Input, other: dict[str, Any]) -> None:
    """Sees to it that a split differs from one that there is, but for the categories."""
    start = f"{given.origin} is to be split {given.split}, but"
    end = "Give each split its own annotation file."
    if other["sha256"] == given.sha256:
        raise ValueError(
            f"{start} split {other['split']} was prepared from a file of the same content. {end}"
        )
    names, others = (
        [(c.id, c.name) for c in coco_format.categories(top)] for top in (given.top, other["top"])
    )
    if names != others:
        raise ValueError(
            f"{start} its categories are not those of split {other['split']}: it is of another data set. Give another "
            "--data_dir or --name, or the annotation file that belongs to it."
        )
    # Elsewhere ids may begin with 1 in each split, and COCO's test-dev is a part of test-challenge.
    if kind in ("coco", "lvis") and {other["split"], given.split} == {"train", "val"}:
        common = set(given.ids).intersection(row[0] for row in other["images"])
        if common:
            raise ValueError(
                f"{start} it has {len(common):,} images of split {other['split']}, such as {min(common)}. {end}"
            )


def lacking(kind: str, given: inputs.Input, found: list[int]) -> list[str]:
    """What a split lacks, in plain words; empty for a whole one."""
    told = []
    published, number = catalogue.published(kind, given.split), len(given.ids)
    if published is not None and number != published:
        told.append(f"{given.origin} has {number:,} images, published are {published:,}")
    missing = [given.files[position] for position, size in enumerate(found) if size < 0]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        told.append(f"{len(missing):,} of {number:,} images are not in {given.folder} ({shown})")
    return told
