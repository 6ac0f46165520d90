from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from jaxseg.data import sources
from tests.data import coco_folder


def _open(folder, data, split="train"):
    return sources.open_source(coco_folder.write(folder, data).data, split)


def test_reads_what_the_file_says(tmp_path):
    source = _open(tmp_path, coco_folder.content())
    assert len(source) == 3 and source.annotated and not source.problems.total()
    assert [(c.id, c.name) for c in source.categories] == [(3, "early"), (90, "late")]
    assert [info.num_objects for info in source.infos] == [1, 1, 0]
    assert source.image(0).shape == (40, 60, 3) and source.image(0).dtype == np.uint8
    (item,) = source.instances(0)
    assert item.class_index == 0 and item.area == 400 and not item.crowd
    np.testing.assert_array_equal(item.box, [10, 10, 30, 30])
    np.testing.assert_array_equal(item.segmentation[0], coco_folder.SQUARE[0])
    assert source.instances(2) == []


def test_every_kind_of_segmentation(tmp_path):
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 10:30] = 1
    compressed = mask_utils.encode(np.asfortranarray(mask))
    runs = [10 * 40 + 10, *([20, 20] * 19), 20, 30 * 40 + 10]
    data = coco_folder.content()
    data["annotations"] = [
        coco_folder.annotation(1, segmentation=[*coco_folder.SQUARE, [40, 5, 50, 5, 50, 15]]),
        coco_folder.annotation(
            2, segmentation={"size": [40, 60], "counts": compressed["counts"].decode()}
        ),
        coco_folder.annotation(3, segmentation={"size": [40, 60], "counts": runs}),
        coco_folder.annotation(4, iscrowd=1, segmentation={"size": [40, 60], "counts": runs}),
        coco_folder.annotation(5, iscrowd=1, segmentation=[]),
    ]
    source = pickle.loads(pickle.dumps(_open(tmp_path, data)))
    items = source.instances(0)
    assert not source.problems.total() and source.infos[0].num_objects == 3
    assert [item.crowd for item in items] == [False, False, False, True, True]
    assert [part.size for part in items[0].segmentation] == [8, 6]
    for item in items[1:3]:
        np.testing.assert_array_equal(mask_utils.decode(item.segmentation), mask)


def test_missing_boxes_and_areas_come_from_the_mask(tmp_path):
    data = coco_folder.content()
    counts = [10 * 40 + 10, *([20, 20] * 19), 20, 30 * 40 + 10]
    data["annotations"] = [
        coco_folder.annotation(1, bbox=None, area=None, id=None, iscrowd=None),
        coco_folder.annotation(
            2, bbox=None, area=0, segmentation={"size": [40, 60], "counts": counts}
        ),
    ]
    source = _open(tmp_path, data)
    for item in source.instances(0):
        np.testing.assert_array_equal(item.box, [10, 10, 30, 30])
        assert item.area == 400
    first, second = source.coco()["annotations"]
    assert first["bbox"] == [10, 10, 20, 20] and first["area"] == 400 and first["iscrowd"] == 0
    assert first["id"] != second["id"] and min(first["id"], second["id"]) > 0


def test_ground_truth_is_the_file(tmp_path):
    data = coco_folder.content()
    data["info"] = {"year": 2026}
    source = _open(tmp_path, data)
    assert source.coco() == data
    assert source.coco() is source.coco()  # read once


def test_a_split_without_annotations(tmp_path):
    data = coco_folder.content()
    del data["annotations"]
    source = _open(tmp_path, data)
    assert not source.annotated and len(source) == 3 and source.instances(0) == []


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (dict(bbox=[10, 10, 0, 20]), "no area"),
        (dict(bbox=[10, 10, 20, -1]), "no area"),
        (dict(bbox=[60, 10, 5, 5]), "outside"),
        (dict(bbox=[-30, -30, 20, 20]), "outside"),
        (dict(bbox=[NAN, 10, 20, 20]), "not finite"),
        (dict(bbox=[10, 10, float("inf"), 20]), "not finite"),
        (dict(bbox=[10, 10, 20]), "not four numbers"),
        (dict(bbox="all"), "not four numbers"),
        (dict(segmentation=None), "without segmentation"),
        (dict(segmentation=[]), "without segmentation"),
        (dict(segmentation=[[1, 2, 3, 4]]), "no area"),
        (dict(segmentation=[[10, 10, 20, 20, 30, 30]], area=None), "without area"),
        (dict(segmentation=[[10, NAN, 20, 20, 30, 10]]), "not finite"),
        (dict(segmentation=[["a", "b"]]), "not a list of numbers"),
        (dict(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "not a list of numbers"),
        (dict(segmentation={"size": [60, 40], "counts": [2400]}), "another size"),
        (dict(segmentation={"size": [40, 60], "counts": [2000]}), "does not cover"),
        (dict(segmentation={"size": [40, 60], "counts": "garbage"}), "does not cover"),
        (dict(segmentation={"size": [40, 60], "counts": None}), "not readable"),
        (dict(segmentation={"size": [40, 60]}), "not readable"),
    ],
)
def test_unusable_objects_are_skipped_and_counted(tmp_path, caplog, changes, reason):
    data = coco_folder.content()
    bad = [coco_folder.annotation(10 + i, **changes) for i in range(5)]
    data["annotations"] += bad
    source = _open(tmp_path, data)
    assert source.infos[0].num_objects == 1 and len(source.instances(0)) == 1
    (found,) = source.problems.counts
    assert reason in found and source.problems.total() == 5
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 1 and "5 x" in warnings[0] and "annotation 10 of image 1" in warnings[0]
    assert [a["id"] for a in source.coco()["annotations"]] == [1, 2]


def test_boxes_are_clipped_to_the_image(tmp_path):
    data = coco_folder.content()
    data["annotations"] = [coco_folder.annotation(1, bbox=[-5, 30, 30, 30])]
    np.testing.assert_array_equal(_open(tmp_path, data).instances(0)[0].box, [0, 30, 25, 40])


def test_missing_images_are_told_and_stay_in_the_ground_truth(tmp_path, caplog):
    config = coco_folder.write(tmp_path, coco_folder.content())
    (tmp_path / "images" / "1.png").unlink()
    source = pickle.loads(pickle.dumps(sources.open_source(config.data, "train")))
    assert [(info.id, info.missing) for info in source.infos] == [(1, True), (2, False), (3, False)]
    assert "1 x image file is missing (1.png)" in caplog.records[0].message
    assert len(caplog.records) == 1 and not source.problems.total()
    assert source.coco() == coco_folder.content()
    with pytest.raises(sources.ImageError, match="image file is missing"):
        source.image(0)
    for number in (2, 3):
        (tmp_path / "images" / f"{number}.png").unlink()
    with pytest.raises(ValueError, match=r"None of the 3 images .* 1\.png"):
        sources.open_source(config.data, "train")


def _changed(key, index, **changes):
    data = coco_folder.content()
    entry = data[key][index]
    entry.update(changes)
    data[key][index] = {k: v for k, v in entry.items() if v is not None}
    return data


def _without(key):
    data = coco_folder.content()
    del data[key]
    return data


def test_images_of_lvis_are_named_by_where_they_are_on_the_web(tmp_path):
    config = coco_folder.write(tmp_path, coco_folder.content())
    data = coco_folder.content()
    for entry in data["images"]:
        entry["coco_url"] = f"http://images.example.org/images/{entry.pop('file_name')}"
    (tmp_path / "instances.json").write_text(json.dumps(data))
    config.data.train.images = "."
    source = sources.open_source(config.data, "train")
    assert [info.file_name for info in source.infos] == [f"images/{i}.png" for i in (1, 2, 3)]
    assert not any(info.missing for info in source.infos)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ("{", r"instances\.json is not a JSON file"),
        ("\x00\xff", r"not a JSON file"),
        (json.dumps([{"image_id": 1}]), "the top is a list.*results file"),
        (json.dumps("x"), "the top is a str"),
        (_without("images"), "no key 'images'; found annotations, categories"),
        (_without("categories"), "no key 'categories'"),
        ({**coco_folder.content(), "annotations": {}}, "'annotations' must be a list"),
        ({**coco_folder.content(), "categories": [], "annotations": []}, "'categories' is empty"),
        (_changed("images", 1, file_name=None), "image number 1 .id 2. has no 'file_name'"),
        (_changed("images", 1, height=None), "has no 'height'"),
        (_changed("images", 1, height=0), "image 2 has height 0"),
        (_changed("images", 1, id=1), "image id 1 is used twice"),
        (_changed("images", 1, id="two"), "image number 1 has the id 'two'; .* whole numbers"),
        (_changed("images", 1, id=-2), "image number 1 has the id -2; .* from 0"),
        (_changed("images", 1, id=2**63), "image number 1 has the id 9223372036854775808"),
        (_changed("images", 1, id=2.5), "image number 1 has the id 2.5"),
        (_changed("images", 1, file_name=2), "image 2 has file_name 2; a string"),
        (_changed("categories", 1, id=-3), "category number 1 has the id -3"),
        (_changed("annotations", 1, id="b"), "annotation number 1 has the id 'b'"),
        (_changed("categories", 0, name=None), "category number 0 .id 90. has no 'name'"),
        (_changed("annotations", 0, image_id=77), "annotation 1 has image_id 77.*3 ids.*1, 2, 3"),
        (_changed("annotations", 1, category_id=4), "annotation 2 has category_id 4.*3, 90"),
        (_changed("annotations", 1, category_id=None), "annotation 2 has category_id None"),
    ],
)
def test_faulty_files_are_named(tmp_path, data, named):
    config = coco_folder.write(tmp_path, coco_folder.content())
    text = data if isinstance(data, str) else json.dumps(data)
    (tmp_path / "instances.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=named):
        sources.open_source(config.data, "train")


def test_missing_files(tmp_path):
    config = coco_folder.write(tmp_path, coco_folder.content())
    data = copy.deepcopy(config.data)
    data.train.annotations = "other.json"
    with pytest.raises(FileNotFoundError, match=r"other\.json does not exist"):
        sources.open_source(data, "train")
    data = copy.deepcopy(config.data)
    data.train.images = "pictures"
    with pytest.raises(FileNotFoundError, match=r"Image folder .*pictures does not exist"):
        sources.open_source(data, "train")
    data = copy.deepcopy(config.data)
    data.root = ""
    with pytest.raises(FileNotFoundError, match=r"data\.root is empty"):
        sources.open_source(data, "train")


def test_unknown_names(tmp_path):
    config = coco_folder.write(tmp_path, coco_folder.content())
    with pytest.raises(ValueError, match=r"'tset': data has .*train, val"):
        sources.open_source(config.data, "tset")
    config.data.source = "imagenet"
    with pytest.raises(ValueError, match="'imagenet': allowed are coco_json, shapes and tfds"):
        sources.open_source(config.data, "train")


@pytest.mark.parametrize(
    ("unset", "named"),
    [
        (("images",), r"^data\.val\.images of"),
        (("annotations",), r"^data\.val\.annotations of"),
        (("images", "annotations"), r"^data\.val\.images and data\.val\.annotations of"),
    ],
)
def test_a_split_that_is_not_set(tmp_path, unset, named):
    data = coco_folder.write(tmp_path, coco_folder.content()).data
    data.val.update({key: "" for key in unset})
    with pytest.raises(ValueError, match=named + ".*--config.data.val.images=val"):
        sources.open_source(data, "val")
    sources.open_source(data, "train")
