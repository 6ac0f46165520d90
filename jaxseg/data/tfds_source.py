"""The source `tfds`: a data set that `python -m jaxseg.data.prepare` wrote."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from jaxseg.data import coco_format, coco_json, images, source
from jaxseg.data import problems as problems_lib
from jaxseg.data.prepare import index as index_lib
from jaxseg.data.prepare import layout, library, records, shards


class TfdsSource:
    """A split of a prepared data set, see `source.Source`: the same images and objects, in the same order, as the
    annotation file that it was prepared from.

    What is kept in memory is the list of images. Everything else is read when it is asked for, by
    `tfds.data_source`; each process opens the files itself, when it first reads.

    Args:
      data_dir: as for jaxseg.data.prepare; any folder that the machine mounts.
      name: of the data set.
      split: of it.

    Raises:
      FileNotFoundError: there is no such data set or split; the message says what there is.
      ValueError: a shard is cut off, or the data set is of another version.
      ImportError: tensorflow-datasets or array_record is not installed.
    """

    def __init__(self, data_dir: str, name: str, split: str):
        library.tfds(), library.array_record()
        self.path = layout.folder(data_dir, name)
        self._split = split
        index = _index(data_dir, name, split)
        _check_shards(self.path, name, split, index["shards"])
        self.categories = coco_format.categories(index["top"])
        self.annotated = index["annotated"]
        self.problems = problems_lib.Problems()
        self.problems.counts.update(index["problems"]["counts"])
        self.problems.examples.update(index["problems"]["examples"])
        rows = index["images"]
        self.infos = tuple(
            source.ImageInfo(number, file, height, width, objects, bool(missing))
            for number, file, height, width, objects, _, missing, _ in rows
        )
        self._first = np.cumsum([0, *(len(row[7]) for row in rows)])
        self._found = np.array([index for row in rows for index in row[7]], np.int32)
        self._records = np.array([row[5] for row in rows], np.int64)
        self._top, self._extras = index["top"], tuple(index["extras"])
        self._classes = {category.id: i for i, category in enumerate(self.categories)}
        self._close()
        coco_json.warn_of_skipped(self)

    def _close(self) -> None:
        self._open: dict[str, Any] = {}  # split -> tfds' data source
        self._owner = os.getpid()
        self._last: tuple[int, Any] = (-1, None)  # the image that was read last
        self._truth: dict[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_last": (-1, None), "_truth": None}

    def __len__(self) -> int:
        return len(self.infos)

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        info = self.infos[index]
        path = os.path.join(self.path, self._split, info.file_name)
        if info.missing:
            raise source.ImageError("image file is missing", path)
        try:
            example = self._data(self._split)[int(self._records[index])]
        except Exception as error:  # of array_record's, tfds' and the system's many kinds
            cause = str(error).partition(";")[0].partition("\n")[0]
            reason = f"record is damaged or not readable ({cause})"
            raise source.ImageError(reason, path) from None
        self._last = (index, example)
        return images.decode(
            np.frombuffer(example["image"], np.uint8), path, (info.height, info.width)
        )

    def instances(self, index: int) -> list[source.Instance]:
        number, example = self._last
        if number != index:
            example = self._objects(index)
        info = self.infos[index]
        _, annotations = records.from_example(example, self._extras)
        unused = problems_lib.Problems()  # counted already
        items = [
            coco_format.normal_form(
                a, info.height, info.width, self._classes[a["category_id"]], unused
            )
            for a in annotations
        ]
        return coco_json.Store([[item for item in items if item is not None]]).load(0, info)

    def image_classes(self, index: int) -> Int[np.ndarray, "N"]:
        """The class index of each object and crowd; no record is read."""
        return self._found[self._first[index] : self._first[index + 1]]

    def coco(self) -> dict[str, Any]:
        """The content of the annotation file that the split was prepared from, as `coco_json` gives it.

        It is read when it is first asked for, and kept: do not change it.
        """
        if self._truth is None:
            self._truth = coco_json.complete(self._content(), self.categories)
        return self._truth

    def _content(self) -> dict[str, Any]:
        entries: list[Any] = [None] * len(self)
        groups: list[list[dict[str, Any]]] = [[] for _ in entries]
        data = self._data(layout.annotations_split(self._split))
        for index in np.argsort(self._records).tolist():  # in the order of the files
            example = self._example(data, index)
            entries[index], groups[index] = records.from_example(example, self._extras)
        data = {**self._top, "images": entries}
        if self.annotated:
            data["annotations"] = [annotation for group in groups for annotation in group]
        return data

    def _objects(self, index: int) -> Any:
        return self._example(self._data(layout.annotations_split(self._split)), index)

    def _example(self, data: Any, index: int) -> Any:
        """The record of an image, out of the split without images."""
        try:
            return data[int(self._records[index])]
        except RuntimeError as error:  # array_record's
            raise ValueError(
                f"The objects of image {self.infos[index].id} cannot be read: a file of split "
                f"{layout.annotations_split(self._split)!r} in {self.path} is damaged "
                f"({str(error).partition(';')[0]}). Delete the files of that split and run jaxseg.data.prepare again "
                "as before: it writes what is not there."
            ) from None

    def _data(self, split: str) -> Any:
        """tfds' data source; opened by this process, since its threads do not live on in a fork."""
        if self._owner != os.getpid():
            truth = self._truth
            self._close()
            self._truth = truth
        if split not in self._open:
            builder = library.tfds().builder_from_directory(self.path)
            self._open[split] = builder.as_data_source(split=split)
        return self._open[split]


def _index(data_dir: str, name: str, split: str) -> dict[str, Any]:
    folder = layout.folder(data_dir, name)
    hint = "Prepare it with python -m jaxseg.data.prepare (docs/data.md)"
    if not os.path.isdir(folder):
        names = sorted(os.listdir(data_dir)) if os.path.isdir(data_dir) else []
        found = [n for n in names if layout.splits(layout.folder(data_dir, n))]
        raise FileNotFoundError(
            f"There is no prepared data set {folder}; in {data_dir} there is {', '.join(found) or 'none'}. {hint}, or "
            "set data.root (its --data_dir) and data.tfds.name."
        )
    known = layout.splits(folder)
    if split not in known:
        begun = os.path.exists(layout.plan(folder, split))
        raise FileNotFoundError(
            f"Split {split!r} of {folder} {'was begun and is not whole' if begun else 'is not there'}; whole are "
            f"{', '.join(known) or 'none'}. {hint} --splits={split}."
        )
    return index_lib.load(folder, split)


def _check_shards(folder: str, name: str, split: str, table: list[list[int]]) -> None:
    for column, part in ((1, split), (2, layout.annotations_split(split))):
        for number, row in enumerate(table):
            path = layout.shard(folder, name, part, number, len(table))
            shards.check(path, row[0], row[column])
