"""Cityscapes' pictures of instance ids in COCO's form: nothing is lost that its evaluation looks at."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils

from jaxseg.data import sources
from jaxseg.data.prepare import cityscapes
from tests.data import prepared
from tests.data.test_tfds_source import assert_same, config

NAMES = {"person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"}
# Of cityscapesscripts.helpers.labels: those with ignoreInEval that are drawn.
VOID = {0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30}


def picture(seed: int, height: int = 48, width: int = 96) -> np.ndarray:
    """A street: background, void, groups, instances that cover each other, one with a hole, one in two parts."""
    rng = np.random.default_rng(seed)
    ids = rng.choice([7, 11, 21, 23], (height // 8, width // 8)).repeat(8, 0).repeat(8, 1)
    ids[-4:] = 1  # ego vehicle
    ids[:2], ids[:, :3] = 3, 0  # out of roi beside unlabeled
    for value in (26, 24, 29, 30001, 29000, 4, 18):
        y, x = rng.integers(2, height - 12), rng.integers(3, width - 16)
        ids[y : y + 9, x : x + 12] = value
    for number, value in enumerate((26000, 26001, 24007, 33000, 31002, 25000)):
        y, x = rng.integers(2, height - 14), 6 + 14 * number
        ids[y : y + 10, x : x + 13] = value
        if number == 1:
            ids[y + 3 : y + 6, x + 4 : x + 8] = 11  # a hole
        if number == 2:
            ids[:, x + 6] = 17  # a pole in front of it
    ids[30, 90] = 27000  # a single pixel
    return ids.astype(np.uint16)


@pytest.fixture
def folder(tmp_path):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for number in range(count):
            stem = f"town{number % 2}/town{number % 2}_000000_{number:06d}"
            photo = tmp_path / "leftImg8bit" / split / f"{stem}_leftImg8bit.png"
            photo.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(number)
            cv2.imwrite(str(photo), rng.integers(0, 256, (48, 96, 3)).astype(np.uint8))
            ids = tmp_path / "gtFine" / split / f"{stem}_gtFine_instanceIds.png"
            ids.parent.mkdir(parents=True, exist_ok=True)
            empty = np.full((48, 96), 7, np.uint16)  # one image without any object
            cv2.imwrite(str(ids), empty if split == "val" and number == 1 else picture(number))
    return tmp_path


def decoded(rle):
    return mask_utils.decode({**rle, "counts": rle["counts"].encode()}).astype(bool)


@pytest.mark.parametrize("seed", range(3))
def test_every_pixel(seed):
    ids = picture(seed)
    entry, annotations = cityscapes.convert(ids.astype(np.int32), 5, "a.png")
    np.testing.assert_array_equal(decoded(entry["void"]), np.isin(ids, list(VOID)))
    wanted = {
        value: value // 1000 or value
        for value in np.unique(ids).tolist()
        if (value // 1000 if value >= 1000 else value) in cityscapes.CLASSES
    }
    assert [a["instance_id"] for a in annotations] == sorted(wanted)
    assert {26, 26001, 27000} <= set(wanted) and not {29000, 30001} & set(wanted)
    for a in annotations:
        mask = ids == a["instance_id"]
        np.testing.assert_array_equal(decoded(a["segmentation"]), mask)
        assert a["category_id"] == wanted[a["instance_id"]] and a["image_id"] == 5
        assert a["iscrowd"] == (a["instance_id"] < 1000) and a["area"] == mask.sum()
        x, y, w, h = map(int, a["bbox"])
        assert mask[y : y + h, x : x + w].sum() == mask.sum()
        assert mask[y : y + h, x].any() and mask[y, x : x + w].any()
        # As pycocotools would have written it.
        assert (
            a["segmentation"]["counts"].encode()
            == mask_utils.encode(np.asfortranarray(mask, np.uint8))["counts"]
        )
    assert len({a["id"] for a in annotations}) == len(annotations)


def test_labels_are_those_of_the_official_scripts():
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    assert set(cityscapes.VOID) == {x.id for x in labels if x.ignoreInEval and x.id >= 0} == VOID
    counted = {x.id: x.name for x in labels if x.hasInstances and not x.ignoreInEval}
    assert counted == cityscapes.CLASSES


@pytest.mark.parametrize("seed", range(3))
def test_instances_are_those_of_the_official_scripts(seed):
    official = pytest.importorskip("cityscapesscripts.evaluation.instance").Instance
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").id2label
    ids = picture(seed)
    found = [official(ids, value) for value in np.unique(ids)]
    counted = {i.instID: i.pixelCount for i in found if labels[i.labelID].name in NAMES}
    _, annotations = cityscapes.convert(ids.astype(np.int32), 1, "a.png")
    assert counted == {a["instance_id"]: a["area"] for a in annotations}


def _prepare(folder, data_dir, **changes):
    given = {"images": str(folder / "leftImg8bit"), "annotations": str(folder / "gtFine")}
    return prepared.prepare(folder, data_dir, "cityscapes", **given | changes)


def test_prepared(folder, tmp_path):
    with pytest.raises(ValueError, match=r"train has 3 images, published are 2,975"):
        _prepare(folder, tmp_path / "d")
    _prepare(folder, tmp_path / "d", splits=("train", "val", "test"), partial=True)
    data = config(tmp_path / "d", "tfds").data
    data.tfds.name = "cityscapes_instances"
    found = sources.open_source(data, "train")
    assert [c.name for c in found.categories] == list(cityscapes.CLASSES.values())
    assert found.infos[0].file_name == "town0/town0_000000_000000_leftImg8bit.png"
    truth = found.coco()
    for position, info in enumerate(found.infos):
        stem = info.file_name.removesuffix("_leftImg8bit.png")
        ids = cv2.imread(
            str(folder / "gtFine" / "train" / f"{stem}_gtFine_instanceIds.png"),
            cv2.IMREAD_UNCHANGED,
        )
        void = decoded(truth["images"][position]["void"])
        np.testing.assert_array_equal(void, np.isin(ids, list(VOID)))
        groups = [a for a in truth["annotations"] if a["image_id"] == info.id and a["iscrowd"]]
        assert sum(i.crowd for i in found.instances(position)) == len(groups) > 0
    # The same, written down as COCO's JSON and read directly.
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    data = config(folder, "coco_json").data
    data.train.images, data.train.annotations = "leftImg8bit/train", str(tmp_path / "truth.json")
    assert_same(sources.open_source(data, "train"), found)
    data = config(tmp_path / "d", "tfds").data
    data.tfds.name = "cityscapes_instances"
    assert [i.num_objects > 0 for i in sources.open_source(data, "val").infos] == [True, False]
    assert not sources.open_source(data, "test").annotated


def test_faulty_pictures(folder, tmp_path):
    path = next((folder / "gtFine" / "val").glob("*/*.png"))
    cv2.imwrite(str(path), np.zeros((48, 96, 3), np.uint8))
    with pytest.raises(ValueError, match="has 3 channels"):
        _prepare(folder, tmp_path / "d", splits=("val",), partial=True)
    cv2.imwrite(str(path), np.full((48, 96), 26, np.uint8))  # of label ids
    with pytest.raises(ValueError, match="has 8 bits a pixel"):
        cityscapes.read_ids(str(path))
    cv2.imwrite(str(path), np.full((48, 90), 26001, np.uint16))
    with pytest.raises(ValueError, match=r"has 48 x 90 pixels .* has 48 x 96"):
        _prepare(folder, tmp_path / "d", splits=("val",), partial=True)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="is damaged or no picture"):
        cityscapes.read_ids(str(path))
    photo = next((folder / "leftImg8bit" / "train").glob("*/*.png"))
    photo.unlink()
    with pytest.raises(ValueError, match="1 of 3 images are not in"):
        _prepare(folder, tmp_path / "d", splits=("train",))
