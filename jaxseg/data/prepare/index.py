"""What a split holds, in one JSON file: a source is opened by it without reading a record.

images    a row an image, in the order of the annotation file: id, file_name, height, width, objects (usable, no
          crowds), record (its number in the shards, which are in the order of ids), missing (no image file), and the
          class index of each usable object and crowd
shards    a row a shard: records, bytes, bytes of the one without images
top       the annotation file's other keys, with the categories
problems  the objects that cannot be used: counts and examples
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from jaxseg import atomic
from jaxseg.data import coco_format, problems, source
from jaxseg.data.prepare import inputs, layout, records, shards

FORMAT = 1


def build(
    folder: str, name: str, plan: dict[str, Any], given: inputs.Input, extras: tuple[str, ...]
) -> dict[str, Any]:
    """Reads the shards of annotations of a split and lists what is in them."""
    told = problems.Problems()
    order = given.by_id()
    missing, rows = set(plan["missing"]), [None] * len(order)
    classes = {c.id: i for i, c in enumerate(coco_format.categories(given.top))}
    features, record, table = records.features(extras), 0, []
    count = len(plan["shards"])
    for number, held in enumerate(plan["shards"]):
        splits = (given.split, layout.annotations_split(given.split))
        paths = [layout.shard(folder, name, split, number, count) for split in splits]
        table.append([held, *map(os.path.getsize, paths)])
        for raw in shards.read(paths[1]):
            entry, annotations = records.from_example(features.deserialize_example_np(raw), extras)
            usable = _usable(entry, annotations, classes, told)
            rows[order[record]] = [
                *(entry["id"], entry["file_name"], entry["height"], entry["width"]),
                sum(not item.crowd for item in usable),
                *(record, int(entry["id"] in missing)),
                [item.class_index for item in usable],
            ]
            record += 1
    return {
        **{key: plan[key] for key in ("format", "kind", "split", "annotation_file", "sha256")},
        **{key: plan[key] for key in ("published", "partial")},
        "extras": list(extras),
        "annotated": given.annotated,
        "problems": {"counts": told.counts, "examples": told.examples},
        "shards": table,
        "top": dict(given.top),
        "images": rows,
    }


def _usable(entry, annotations, classes, told) -> list[source.Instance]:
    """The annotations that can be used; why the others cannot is told."""
    height, width = entry["height"], entry["width"]
    items = (
        coco_format.normal_form(a, height, width, classes[a["category_id"]], told)
        for a in annotations
    )
    return [item for item in items if item is not None]


def save(folder: str, index: dict[str, Any]) -> None:
    write_json(layout.index(folder, index["split"]), index)


def load(folder: str, split: str) -> dict[str, Any]:
    """Reads the index of a split.

    Raises:
      FileNotFoundError: there is no such split.
      ValueError: it is of another version, or damaged.
    """
    path = layout.index(folder, split)
    index = read_json(path)
    if index is None:
        raise FileNotFoundError(f"There is no {path}.")
    return index


def write_json(path: str, content: dict[str, Any]) -> None:
    with atomic.replacing(pathlib.Path(path)) as file:
        json.dump(content, file, separators=(",", ":"))


def read_json(path: str) -> dict[str, Any] | None:
    """A file of ours; None if it is not there.

    Raises:
      ValueError: it is none, or of another version.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Prepare the data set anew.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not of this version of jaxseg (its format is not {FORMAT}). Prepare the data set anew, in "
            "another --data_dir."
        )
    return content
