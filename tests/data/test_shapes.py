from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from pycocotools import mask as mask_utils

from configs import common
from jaxseg.data import shapes, shapes_drawing, sources
from tests.data import coco_folder


def _scenes(count=60, size=(128, 160), objects=(1, 8), seed=0, split="train"):
    return shapes.Shapes(count, size, objects, seed, split)


def test_a_scene_depends_on_seed_split_and_index_alone():
    first, again = _scenes(4), _scenes(9)
    for index in (3, 0, 2):  # in any order
        np.testing.assert_array_equal(first.image(index), again.image(index))
        assert first.infos[index] == again.infos[index]
    copied = pickle.loads(pickle.dumps(first))
    np.testing.assert_array_equal(first.image(1), copied.image(1))
    for other in (_scenes(4, seed=1), _scenes(4, split="val")):
        assert other.image(0).tobytes() != first.image(0).tobytes()


def test_scenes_have_all_that_makes_it_hard():
    scenes = _scenes()
    areas, classes, holes, empty, overlaps = [], set(), 0, 0, 0
    for index, info in enumerate(scenes.infos):
        scene = scenes.scene(index)
        assert scene.image.shape == (info.height, info.width, 3)
        assert len(scene.masks) == info.num_objects <= 8
        assert min(info.height, info.width) >= 128 and max(info.height, info.width) <= 160
        empty += not info.num_objects
        classes.update(scene.classes)
        areas += [int(mask.sum()) for mask in scene.masks]
        if scene.masks:
            assert np.sum(scene.masks, 0).max() == 1  # visible parts do not overlap
        boxes = [item.box for item in scenes.instances(index)]
        overlaps += sum(
            (np.minimum(a[2:], b[2:]) > np.maximum(a[:2], b[:2])).all()
            for i, a in enumerate(boxes)
            for b in boxes[:i]
        )
        holes += sum(name == 3 for name in scene.classes)
    assert classes == set(range(len(shapes_drawing.NAMES)))
    assert min(areas) >= 4 and empty and holes and overlaps > 20
    areas = np.array(areas)
    assert (areas < 32**2).any() and (areas > 96**2).any()
    assert ((areas >= 32**2) & (areas <= 96**2)).any()


@pytest.mark.parametrize("name", shapes_drawing.NAMES)
def test_silhouettes(name):
    shape = shapes_drawing.Shape(shapes_drawing.NAMES.index(name), (50.0, 60.0), 40.0, 0.3, 1.0)
    window, inside = shapes_drawing.silhouette(shape, 100, 120)
    mask = np.zeros((100, 120), bool)
    mask[window] = inside
    x0, y0, x1, y1 = shapes_drawing.extent(mask)
    assert 40 < x1 - x0 <= 82 and 40 < y1 - y0 <= 82  # near its diameter, never beyond
    assert mask[50, 60] == (name != "ring")
    share = mask.sum() / (np.pi * 40**2)
    assert 0.25 < share <= 1.01


def test_ground_truth():
    scenes = _scenes(6)
    data = scenes.coco()
    assert [entry["id"] for entry in data["images"]] == list(range(1, 7))
    assert len({a["id"] for a in data["annotations"]}) == len(data["annotations"])
    for entry in data["annotations"][:5]:
        mask = mask_utils.decode(entry["segmentation"])
        assert mask.sum() == entry["area"]
        assert mask_utils.toBbox(entry["segmentation"]).tolist() == entry["bbox"]


def test_the_command_writes_a_data_set_that_coco_json_reads(tmp_path):
    arguments = f"--out={tmp_path} --train=3 --val=2 --size 48 64 --objects 1 3 --seed=5".split()
    subprocess.run([sys.executable, "-m", "jaxseg.data.shapes", *arguments], check=True)
    config = coco_folder.shapes()
    config.data.source, config.data.root = "coco_json", str(tmp_path)
    for split, count in (("train", 3), ("val", 2)):
        config.data[split].images = split
        config.data[split].annotations = f"annotations/instances_{split}.json"
        written = sources.open_source(config.data, split)
        drawn = _scenes(count, (48, 64), (1, 3), 5, split)
        assert written.categories == drawn.categories and len(written) == count
        for index in range(count):
            np.testing.assert_array_equal(written.image(index), drawn.image(index))
            pairs = zip(written.instances(index), drawn.instances(index), strict=True)
            for a, b in pairs:
                np.testing.assert_array_equal(a.box, b.box)
                assert a.segmentation["counts"] == b.segmentation["counts"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(train=0), "at least 1"),
        (dict(size=(64, 48)), "size"),
        (dict(objects=(0, 3)), "objects"),
        (dict(seed=-1), "seed"),
    ],
)
def test_senseless_values(changes, named):
    config = copy.deepcopy(coco_folder.shapes().data)
    config.shapes.update(changes)
    with pytest.raises(ValueError, match=named):
        sources.open_source(config, "train")
    with pytest.raises(ValueError, match="train and val"):
        sources.open_source(config, "test")


def test_a_config_of_an_earlier_version_gives_the_scenes_it_gave():
    """`huddled` came later; work directories of runs before have no such key."""
    config = dict(common.data().shapes.to_dict(), train=2)
    now = shapes.open_split(ConfigDict(config), "train")
    del config["huddled"]
    before = shapes.open_split(ConfigDict(config), "train")
    np.testing.assert_array_equal(now.image(1), before.image(1))


def test_more_objects_huddle_where_that_is_asked_for():
    def alone(huddled):
        scenes = shapes.Shapes(40, (112, 128), (3, 3), 0, "train", huddled)
        boxes = [[i.box for i in scenes.instances(k)] for k in range(40)]
        pairs = [(a, b) for of in boxes for n, a in enumerate(of) for b in of[n + 1 :]]
        apart = [a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1] for a, b in pairs]
        return np.mean(apart)

    assert alone(1.0) < alone(0.0) - 0.1
