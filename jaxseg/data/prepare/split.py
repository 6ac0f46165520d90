"""Preparing one split: its checks, its shards, its index."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

from rich.console import Console
from rich.progress import Progress

from jaxseg.data import coco_format
from jaxseg.data.prepare import catalogue, checks, index, inputs, layout, plans, records, shards
from jaxseg.data.prepare.options import Options

_READERS = 8  # threads that read image files


def prepare(options: Options, folder: str, name: str, split: str, console: Console) -> None:
    """Prepares a split; shards that are there and whole are kept.

    Raises:
      ValueError, OSError: as `run.prepare`.
    """
    given = catalogue.open_input(options.kind, split, options.images, options.annotations)
    sizes = checks.sizes(given)
    whole = [index.load(folder, other) for other in layout.splits(folder)]
    for line in checks.check(options, given, sizes, whole):
        console.print(f"{split}: {line} (--partial)", soft_wrap=True)
    job = _Job(folder, name, given, sizes, plans.make(options, given, sizes))
    plans.keep_to(folder, job.plan, begun=any(os.path.exists(p) for p in job.all_paths()))
    known = next((other for other in whole if other["split"] == split), None)
    todo = [n for n in range(job.count) if not job.is_whole(n, known and known["shards"])]
    _check_room(folder, sum(max(sizes[p], 0) for n in todo for p in job.positions(n)))
    hidden = not console.is_terminal  # of a log only the lines are kept
    with Progress(console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(split, total=sum(job.plan["shards"][n] for n in todo))
        with futures.ThreadPoolExecutor(_READERS) as pool:
            for number in todo:
                loaded = pool.map(job.load, job.positions(number))
                job.write(number, loaded, lambda: progress.advance(task))
    if known is None or todo:
        index.save(folder, index.build(folder, name, job.plan, given, job.extras))
    kept = f", {job.count - len(todo)} of them kept" if len(todo) < job.count else ""
    console.print(f"{split}: {len(given.ids):,} images in {job.count} shards{kept}", soft_wrap=True)


def _check_room(folder: str, needed: int) -> None:
    usage = shutil.disk_usage(folder)
    if usage.total and usage.free < needed:  # some mounted buckets say 0
        raise OSError(
            f"The disk of {folder} is full: the images need {needed / 1e9:.1f} GB, {usage.free / 1e9:.1f} GB are free. "
            "Make room or give another --data_dir."
        )


class _Job:
    """A split with its plan; shard n and the one without images are written together.

    Args:
      sizes: of the image files in bytes; -1 where there is none.
      plan: from `plans.make`.
    """

    def __init__(
        self,
        folder: str,
        name: str,
        given: inputs.Input,
        sizes: Sequence[int],
        plan: dict[str, Any],
    ):
        self.plan, self.count = plan, len(plan["shards"])
        self.extras = catalogue.KINDS[plan["kind"]].extras
        self._folder, self._name, self._given, self._sizes = folder, name, given, sizes
        self._order = given.by_id()
        self._features = records.features(self.extras)
        categories = coco_format.categories(given.top)
        self._labels = {category.id: i for i, category in enumerate(categories)}

    def paths(self, number: int) -> tuple[str, str]:
        """The files of a shard: the whole records, and those without images."""
        splits = (self._given.split, layout.annotations_split(self._given.split))
        first, second = (
            layout.shard(self._folder, self._name, s, number, self.count) for s in splits
        )
        return first, second

    def all_paths(self) -> Iterator[str]:
        return (path for number in range(self.count) for path in self.paths(number))

    def positions(self, number: int) -> list[int]:
        """Which images of the input make up a shard."""
        first = sum(self.plan["shards"][:number])
        return self._order[first : first + self.plan["shards"][number]]

    def is_whole(self, number: int, table: list[list[int]] | None) -> bool:
        """Whether both files of a shard are there.

        Args:
          table: `shards` of the index, if there is one.

        Raises:
          ValueError: one is there and damaged.
        """
        sizes = table[number][1:] if table else (None, None)
        paths = [
            (path, size)
            for path, size in zip(self.paths(number), sizes, strict=True)
            if os.path.exists(path)
        ]
        for path, size in paths:
            shards.check(path, self.plan["shards"][number], size)
        return len(paths) == 2

    def load(self, position: int) -> tuple[bytes, bytes]:
        """The record of an image, and the one without its image."""
        content = _content(self._given, position, self._sizes[position])
        entry, annotations = self._given.read(position)
        example = records.to_example(entry, annotations, self._labels, content, self.extras)
        return (
            records.serialize(self._features, example),
            records.serialize(self._features, example | {"image": b""}),
        )

    def write(
        self, number: int, loaded: Iterator[tuple[bytes, bytes]], advance: Callable[[], None]
    ) -> None:
        """Writes both files of a shard; `advance` is called for each record."""
        without_images: list[bytes] = []

        def records_() -> Iterator[bytes]:
            for record, without_image in loaded:
                without_images.append(without_image)
                advance()
                yield record

        first, second = self.paths(number)
        shards.write(first, records_(), shards.IMAGES)
        shards.write(second, without_images, shards.ANNOTATIONS)


def _content(given: inputs.Input, position: int, size: int) -> bytes:
    """The bytes of an image file, or none where it is missing."""
    if size < 0:
        return b""
    path = given.path(position)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise type(error)(
            f"Image {path} of split {given.split} cannot be read: {error.strerror or error}."
        ) from None
    if len(content) != size:
        raise ValueError(
            f"Image {path} of split {given.split} changed its size from {size:,} to {len(content):,} bytes meanwhile. "
            "Wait until the download is complete and run the same command again."
        )
    return content
