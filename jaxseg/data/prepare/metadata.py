"""The files by which tensorflow-datasets knows a data set; written last, without running its builders."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from typing import Any

from jaxseg import atomic
from jaxseg.data.prepare import layout, library, records

_INFO = "dataset_info.json"


def write(folder: str, name: str, indices: list[dict[str, Any]], extras: tuple[str, ...]) -> None:
    """Writes features.json, metadata.json (classes, what the splits are made from) and, last, dataset_info.json.

    Args:
      indices: of the whole splits.
    """
    tfds = library.tfds()
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=name,
        version=tfds.core.Version(layout.VERSION),
        data_dir=folder,
        module_name="jaxseg.data.prepare",
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Images with instance masks; written by python -m jaxseg.data.prepare.",
        features=records.features(extras),
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(_metadata(indices)),
    )
    info.set_file_format("array_record")
    splits = [split for index in indices for split in _splits(tfds, folder, name, index)]
    info.set_splits(tfds.core.splits.SplitDict(splits))
    made = os.path.join(folder, ".metadata")
    shutil.rmtree(made, ignore_errors=True)  # of an interrupted run
    os.mkdir(made)
    info.write_to_directory(made)
    for file in sorted(os.listdir(made), key=lambda file: file == _INFO):
        with open(os.path.join(made, file), encoding="utf-8") as written:
            content = json.load(written)
        with atomic.replacing(pathlib.Path(folder, file)) as out:  # tfds' order of keys varies
            json.dump(content, out, indent=2, sort_keys=True)
    shutil.rmtree(made)


def _metadata(indices: list[dict[str, Any]]) -> dict[str, Any]:
    kept = ("kind", "annotation_file", "sha256", "published", "partial")
    splits = {
        index["split"]: {
            **{key: index[key] for key in kept},
            "images": len(index["images"]),
            "missing_images": sum(row[6] for row in index["images"]),
        }
        for index in indices
    }
    shown = ("id", "name", "frequency", "supercategory")
    categories = sorted(indices[0]["top"]["categories"], key=lambda category: category["id"])
    categories = [{key: c[key] for key in shown if key in c} for c in categories]
    return {"categories": categories, "splits": splits}


def _splits(tfds: Any, folder: str, name: str, index: dict[str, Any]) -> list[Any]:
    lengths = [held for held, *_ in index["shards"]]
    return [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=lengths,
            num_bytes=sum(row[column] for row in index["shards"]),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=folder, dataset_name=name, split=split, filetype_suffix="array_record"
            ),
        )
        for column, split in ((1, index["split"]), (2, layout.annotations_split(index["split"])))
    ]
