"""An image with its objects, in COCO's form, and the same as an example of tensorflow-datasets.

Nothing is lost on the way: what the typed features cannot say exactly (further keys, a box of integers, a missing
area) is in the feature `rest` as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg.data.prepare import library

_ABSENT = "\0absent"  # key of `rest`: which keys are not there
_IMAGE_DEFAULTS = {"neg_category_ids": [], "not_exhaustive_category_ids": [], "void": None}
_OBJECT_DEFAULTS = {"id": 0, "bbox": [0.0] * 4, "area": 0.0, "iscrowd": 0, "segmentation": None}


def features(extras: Sequence[str] = ()) -> Any:
    """The tfds.features.FeaturesDict of a record.

    `image`: the bytes of the image file, as they were ("" where it is missing, and in the splits of annotations);
    `image/*`: id, file_name, height, width, rest, and of `extras` neg_category_ids and not_exhaustive_category_ids
    (LVIS), void (Cityscapes: RLE as JSON). `objects`, of n: id, bbox (n,4: x, y, width, height) and area in pixels,
    category_id (the data set's), label (0..K-1), is_crowd, segmentation (polygons or RLE as JSON), rest.
    """
    f = library.tfds().features
    exact = f.Encoding.BYTES  # tfds keeps floats as float32 otherwise

    def column(dtype: Any, *shape: int) -> Any:
        return f.Tensor(shape=(None, *shape), dtype=dtype, encoding=exact)

    image = {
        "id": f.Scalar(np.int64),
        "file_name": f.Text(),
        "height": f.Scalar(np.int64),
        "width": f.Scalar(np.int64),
        "rest": f.Text(),
    }
    for key in extras:
        image[key] = f.Text() if key == "void" else column(np.int64)
    objects = {
        "id": column(np.int64),
        "bbox": column(np.float64, 4),
        "area": column(np.float64),
        "category_id": column(np.int64),
        "label": column(np.int64),
        "is_crowd": column(np.bool_),
        "segmentation": f.Sequence(f.Text()),
        "rest": f.Sequence(f.Text()),
    }
    return f.FeaturesDict(
        {"image": f.Text(), **{f"image/{k}": v for k, v in image.items()}, "objects": objects}
    )


def to_example(
    entry: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    labels: Mapping[int, int],
    image: bytes,
    extras: Sequence[str] = (),
) -> dict[str, Any]:
    """An example for `features(extras)`.

    Args:
      entry: of the list `images`, with id, file_name, height, width.
      annotations: of this image.
      labels: category id -> class index.
      image: the file's content.
    """
    typed = {key: entry.get(key, _IMAGE_DEFAULTS[key]) for key in extras}
    lists = [key for key in extras if key != "void"]
    for key in lists:
        if not _whole_numbers(typed[key]):
            typed[key] = []
    fixed = {key: entry[key] for key in ("id", "file_name", "height", "width")}
    example = {f"image/{key}": value for key, value in fixed.items()}
    example["image/rest"] = _rest(entry, fixed | typed)
    example |= {f"image/{key}": np.array(typed[key], np.int64) for key in lists}
    if "void" in extras:
        example["image/void"] = _json(typed["void"])
    return {**example, "image": image, "objects": _objects(annotations, labels)}


def serialize(features: Any, example: Mapping[str, Any]) -> bytes:
    """The bytes of a record: the same in every process, while tfds leaves the order of the features to chance."""
    message = library.example_proto().FromString(features.serialize_example(example))
    return message.SerializeToString(deterministic=True)


def from_example(
    example: Mapping[str, Any], extras: Sequence[str] = ()
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The entry of the list `images` and the annotations that `to_example` was given."""
    entry = {key: example[f"image/{key}"] for key in ("id", "height", "width")}
    entry["file_name"] = example["image/file_name"].decode()
    for key in extras:
        value = example[f"image/{key}"]
        entry[key] = json.loads(value) if key == "void" else value.tolist()
    entry = _restored(entry, example["image/rest"])
    objects = example["objects"]
    columns = {k: objects[k].tolist() for k in ("id", "bbox", "area", "category_id", "is_crowd")}
    segmentations = json.loads(b"[" + b",".join(objects["segmentation"]) + b"]")
    annotations = []
    for i, rest in enumerate(objects["rest"]):
        annotation = {key: column[i] for key, column in columns.items() if key != "is_crowd"}
        annotation["iscrowd"] = int(columns["is_crowd"][i])
        annotation["segmentation"] = segmentations[i]
        annotation["image_id"] = entry["id"]
        annotations.append(_restored(annotation, rest))
    return entry, annotations


def _objects(annotations: Sequence[Mapping[str, Any]], labels: Mapping[int, int]) -> dict[str, Any]:
    typed = [_typed(annotation) for annotation in annotations]
    return {
        "id": np.array([t["id"] for t in typed], np.int64),
        "bbox": np.array([t["bbox"] for t in typed], np.float64).reshape(-1, 4),
        "area": np.array([t["area"] for t in typed], np.float64),
        "category_id": np.array([a["category_id"] for a in annotations], np.int64),
        "label": np.array([labels[a["category_id"]] for a in annotations], np.int64),
        "is_crowd": np.array([t["iscrowd"] for t in typed], bool),
        "segmentation": [_json(t["segmentation"]) for t in typed],
        "rest": [_rest(a, t) for a, t in zip(annotations, typed, strict=True)],
    }


def _typed(annotation: Mapping[str, Any]) -> dict[str, Any]:
    """What `from_example` gives back of the typed features; `_rest` is what this lacks."""
    typed = dict(_OBJECT_DEFAULTS)
    for key in ("image_id", "category_id", "segmentation"):
        typed[key] = annotation.get(key)
    if annotation.get("id") is not None:
        typed["id"] = annotation["id"]
    box, area = annotation.get("bbox"), annotation.get("area")
    if isinstance(box, list) and len(box) == 4 and all(map(_number, box)):
        typed["bbox"] = [float(value) for value in box]
    if _number(area):
        typed["area"] = float(area)
    crowd = annotation.get("iscrowd")
    typed["iscrowd"] = int(isinstance(crowd, int) and bool(crowd))
    return typed


def _number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**53


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and abs(v) < 2**63 for v in value)


def _rest(given: Mapping[str, Any], typed: Mapping[str, Any]) -> str:
    """What must be changed in `typed` to have `given`; "" for nothing, as nearly always."""
    rest = {k: v for k, v in given.items() if k not in typed or _json(v) != _json(typed[k])}
    absent = [key for key in typed if key not in given]
    return _json(rest | ({_ABSENT: absent} if absent else {})) if rest or absent else ""


def _restored(typed: dict[str, Any], rest: bytes) -> dict[str, Any]:
    if not rest:
        return typed
    changes = json.loads(rest)
    absent = changes.pop(_ABSENT, ())
    return {k: v for k, v in (typed | changes).items() if k not in absent}


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
