"""A record gives back what was put into it, to the letter."""

from __future__ import annotations

import json

import pytest

from jaxseg.data.prepare import records
from tests.data import prepared

LVIS = ("neg_category_ids", "not_exhaustive_category_ids")
LABELS = {3: 0, 90: 1}


def round_trip(entry, annotations, extras=()):
    features = records.features(extras)
    example = records.to_example(entry, annotations, LABELS, b"\xff\x00picture", extras)
    back = features.deserialize_example_np(features.serialize_example(example))
    assert back["image"] == b"\xff\x00picture"
    return back, *records.from_example(back, extras)


def canonical(value):
    return json.dumps(value, sort_keys=True)


def test_awkward_objects():
    data = prepared.awkward()
    for entry in data["images"]:
        annotations = [a for a in data["annotations"] if a["image_id"] == entry["id"]]
        _, entry_back, back = round_trip(entry, annotations)
        assert canonical(entry_back) == canonical(entry)
        assert canonical(back) == canonical(annotations)


@pytest.mark.parametrize(
    ("extras", "more"),
    [
        (LVIS, {"neg_category_ids": [5, 2**40], "not_exhaustive_category_ids": []}),
        (LVIS, {"neg_category_ids": None}),
        (LVIS, {"neg_category_ids": ["a"], "not_exhaustive_category_ids": [1.5]}),
        (("void",), {"void": {"size": [40, 60], "counts": "PR1"}}),
        (("void",), {}),
    ],
)
def test_extras(extras, more):
    entry = {"id": 2**62, "file_name": "ä/b.png", "height": 40, "width": 60, **more}
    _, back, annotations = round_trip(entry, [], extras)
    assert canonical(back) == canonical(entry) and annotations == []


def test_typed_features():
    box, area = [0.1, 0.2, 1 / 3, 7.0], 12.345678901234567
    annotation = {"id": 7, "image_id": 1, "category_id": 90, "bbox": box, "area": area}
    annotation |= {"iscrowd": 1, "segmentation": [[1, 2, 3, 4, 5, 6.5]]}
    entry = {"id": 1, "file_name": "a.png", "height": 40, "width": 60}
    back, *_ = round_trip(entry, [annotation])
    objects = back["objects"]
    assert objects["bbox"].tolist() == [box] and objects["area"].tolist() == [area]  # not float32
    assert objects["category_id"].tolist() == [90] and objects["label"].tolist() == [1]
    assert objects["is_crowd"].tolist() == [True] and objects["id"].tolist() == [7]
    assert json.loads(objects["segmentation"][0]) == annotation["segmentation"]
    assert objects["rest"] == [b""] and back["image/rest"] == b""
