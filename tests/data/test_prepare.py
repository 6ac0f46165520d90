"""Preparing: what is told, refused, kept and gone on with."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from jaxseg.data import sources
from jaxseg.data.prepare import catalogue, inputs, lock, shards
from tests.data import coco_folder, prepared
from tests.data.test_tfds_source import assert_same, config

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    """Of two splits with 6 and 2 images."""
    prepared.write(tmp_path / "given", "train", coco_folder.content(6))
    prepared.write(tmp_path / "given", "val", coco_folder.content(2))
    return tmp_path / "given"


@pytest.fixture
def tiny_shards(monkeypatch):
    """An image a shard."""
    monkeypatch.setattr(shards, "cut", lambda sizes, limit: [1] * len(sizes))


def test_shards_are_cut_by_bytes():
    assert shards.cut([4, 4, 4, 10, 1, 1], 8) == [2, 2, 2]
    assert shards.cut([9, 9], 8) == [1, 1] and shards.cut([1, 1, 1], 8) == [3]


@pytest.mark.parametrize("stop", [0, 1, 6, 11])
def test_interrupted_and_resumed_is_the_same(folder, tmp_path, tiny_shards, monkeypatch, stop):
    prepared.prepare(folder, tmp_path / "whole", splits=("train",))
    write, written = shards.write, []

    def interrupted(path, records, options):
        if len(written) == stop:
            pathlib.Path(path + shards.TEMPORARY).write_bytes(b"half of it")
            raise KeyboardInterrupt
        written.append(path)
        write(path, records, options)

    monkeypatch.setattr(shards, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepared.prepare(folder, tmp_path / "resumed", splits=("train",))
    with pytest.raises(FileNotFoundError, match="was begun and is not whole"):
        sources.open_source(config(tmp_path / "resumed", "tfds").data, "train")
    monkeypatch.setattr(shards, "write", lambda *a: (written.append(a[0]), write(*a))[1])
    prepared.prepare(folder, tmp_path / "resumed", splits=("train",))
    assert len(written) - stop <= 12 - stop + stop % 2  # a pair that was half there comes again
    whole = prepared.content(tmp_path / "whole")
    assert prepared.content(tmp_path / "resumed") == whole
    assert len(whole) == 6 * 2 + 5  # shards; plan, index, and three of tfds


@pytest.mark.slow
def test_killed_and_resumed_is_the_same(folder, tmp_path):
    prepared.write(folder, "train", coco_folder.content(400))
    command = [sys.executable, "-m", "jaxseg.data.prepare", "folder", f"--images={folder}"]
    command += [f"--annotations={folder}/annotations", "--shard_mb=1", "--data_dir"]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment)
    made, seen = tmp_path / "resumed" / "own" / "1.0.0", -1
    for kill in range(4):
        process = subprocess.Popen([*command, str(tmp_path / "resumed")], env=environment)
        while process.poll() is None:  # a little later each time
            there = len(list(made.glob("*array_record*")))
            if there > max(seen, kill):
                seen = there
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        process.wait()
    subprocess.run([*command, str(tmp_path / "resumed")], check=True, env=environment)
    assert prepared.content(tmp_path / "resumed") == prepared.content(tmp_path / "whole")


def test_splits_may_come_one_after_another(folder, tmp_path):
    prepared.prepare(folder, tmp_path / "one", splits=("val",))
    told = prepared.prepare(folder, tmp_path / "one", splits=("train", "val"))
    assert "val: 2 images in 1 shards, 1 of them kept" in told
    prepared.prepare(folder, tmp_path / "both")
    assert prepared.content(tmp_path / "one") == prepared.content(tmp_path / "both")


def test_other_annotations_or_settings_are_refused(folder, tmp_path):
    prepared.prepare(folder, tmp_path / "d", splits=("train",))
    advice = (
        r"--shard_mb changed \(256; now 1\).* delete the files of the split, train\.plan\.json, train\.index\.json, "
        r"own-train\.array_record-\*, own-train_annotations\.array_record-\*\."
    )
    with pytest.raises(ValueError, match=advice):
        prepared.prepare(folder, tmp_path / "d", splits=("train",), shard_mb=1)
    changed = coco_folder.content(6)
    changed["annotations"][0]["area"] = 399
    prepared.write(folder, "train", changed)
    with pytest.raises(
        ValueError, match=r"the annotations changed \(instances_train\.json, SHA-256"
    ):
        prepared.prepare(folder, tmp_path / "d", splits=("train",))


def test_missing_images(folder, tmp_path):
    (folder / "train" / "3.png").unlink()
    with pytest.raises(
        ValueError, match=r"train is not whole: 1 of 6 images are not in .*\(3\.png\)"
    ):
        prepared.prepare(folder, tmp_path / "d")
    told = prepared.prepare(folder, tmp_path / "d", partial=True)
    assert "1 of 6 images are not in" in told and "(--partial)" in told
    opened = [
        sources.open_source(config(root, kind).data, "train")
        for root, kind in ((folder, "coco_json"), (tmp_path / "d", "tfds"))
    ]
    assert [info.missing for info in opened[1].infos] == [False, False, True, False, False, False]
    assert_same(*opened)
    with pytest.raises(sources.ImageError, match="image file is missing"):
        opened[1].image(2)
    for path in [*(folder / "val").iterdir(), *(folder / "train").iterdir()]:
        path.unlink()
    with pytest.raises(ValueError, match="Not one image of split val is there"):
        prepared.prepare(folder, tmp_path / "d", splits=("val",), partial=True)


def test_a_damaged_shard_is_named(folder, tmp_path, tiny_shards, monkeypatch):
    prepared.prepare(folder, tmp_path / "d", splits=("train",))
    whole = prepared.content(tmp_path / "d")
    made = tmp_path / "d" / "own" / "1.0.0"
    path = made / "own-train.array_record-00002-of-00006"
    for index in (True, False):  # known sizes, or the end of the file
        if not index:
            (made / "train.index.json").unlink()
        os.truncate(path, path.stat().st_size - 10)
        with pytest.raises(ValueError, match=f"Shard .*{path.name} is damaged.* Delete it"):
            prepared.prepare(folder, tmp_path / "d", splits=("train",))
        path.unlink()
        prepared.prepare(folder, tmp_path / "d", splits=("train",))
        assert prepared.content(tmp_path / "d") == whole


def _published(monkeypatch, kind, **numbers):
    splits = {
        name: catalogue.Split(split.images, split.annotations, numbers.get(name, split.published))
        for name, split in catalogue.KINDS[kind].splits.items()
    }
    changed = catalogue.Kind(catalogue.KINDS[kind].name, splits, catalogue.KINDS[kind].extras)
    monkeypatch.setitem(catalogue.KINDS, kind, changed)


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """Downloads of a COCO with 4 training, 3 validation and 5 test images, of which 2 are test-dev."""
    _published(monkeypatch, "coco", train=4, val=3, test_dev=2, test_challenge=5)
    given, first = tmp_path / "coco", {"train": 0, "val": 10, "test": 20}
    for split, number in (("train", 4), ("val", 3), ("test", 5)):
        data = coco_folder.content(number)
        for entry in (*data["images"], *data["annotations"]):
            key = "image_id" if "image_id" in entry else "id"
            entry[key] += first[split]
        for entry in data["images"]:
            entry["file_name"] = f"{entry['id']}.png"
        prepared.write(given, f"{split}2017", data)
        if split == "test":
            del data["annotations"]
            folder = given / "annotations"
            (folder / "image_info_test2017.json").write_text(json.dumps(data))
            data["images"] = data["images"][:2]
            (folder / "image_info_test-dev2017.json").write_text(json.dumps(data))
    return given


def test_coco(coco, tmp_path):
    told = prepared.prepare(coco, tmp_path / "d", "coco")
    assert "train: 4 images" in told and "val: 3 images" in told
    prepared.prepare(coco, tmp_path / "d", "coco", splits=("test-dev", "test-challenge"))
    data = config(tmp_path / "d", "tfds").data
    data.tfds.name = "coco2017"
    for split, images in (("train", 4), ("test-dev", 2), ("test_challenge", 5)):
        found = sources.open_source(data, split)
        assert len(found) == images and found.annotated == (split == "train")
    assert found.image(0).shape == (coco_folder.HEIGHT, coco_folder.WIDTH, 3)


def test_annotations_of_another_split(coco, tmp_path):
    folder = coco / "annotations"
    val, train = folder / "instances_val2017.json", folder / "instances_train2017.json"
    whole = json.loads(train.read_text())

    def refused(match, **changes):
        with pytest.raises(ValueError, match=match):
            prepared.prepare(coco, tmp_path / "d", "coco", splits=("train",), **changes)

    shutil.copy(val, train)
    refused("to be split train, but its 3 images are as many as coco has in split val")
    part = json.loads(val.read_text())
    part["images"], part["annotations"] = part["images"][:2], part["annotations"][:2]
    part["info"] = "not of a number that is known"
    part["images"].append(part["images"][0] | {"id": 77})
    part["images"] += [part["images"][0] | {"id": 78 + i} for i in range(4)]
    train.write_text(json.dumps(part))
    refused("none of its images is in .*train2017 and all are in .*val2017", partial=True)
    prepared.prepare(coco, tmp_path / "d", "coco", splits=("val",))
    shutil.copytree(coco / "val2017", coco / "train2017", dirs_exist_ok=True)
    part["images"] = whole["images"][:1] + part["images"]
    train.write_text(json.dumps(part))
    refused("it has 2 images of split val, such as 11", partial=True)
    whole["categories"][0]["name"] = "other"
    train.write_text(json.dumps(whole))
    refused("its categories are not those of split val")


def test_published_counts(coco, tmp_path, monkeypatch):
    _published(monkeypatch, "coco", train=118_287)
    with pytest.raises(ValueError, match=r"train2017\.json has 4 images, published are 118,287"):
        prepared.prepare(coco, tmp_path / "d", "coco", splits=("train",))
    told = prepared.prepare(coco, tmp_path / "d", "coco", splits=("train",), partial=True)
    assert "has 4 images, published are 118,287 (--partial)" in told
    metadata = json.loads((tmp_path / "d/coco2017/1.0.0/metadata.json").read_text())
    assert metadata["splits"]["train"]["partial"]


def test_the_same_file_twice(folder, tmp_path):
    shutil.copy(
        folder / "annotations/instances_val.json", folder / "annotations/instances_train.json"
    )
    with pytest.raises(
        ValueError, match="split train was prepared from a file of the same content"
    ):
        prepared.prepare(folder, tmp_path / "d")


def test_lvis(coco, tmp_path, monkeypatch):
    """Images are found by where they are on the web; the federated fields arrive."""
    _published(monkeypatch, "lvis", train=4, val=3)
    data = json.loads((coco / "annotations/instances_train2017.json").read_text())
    for entry in data["images"]:
        entry["coco_url"] = f"http://images.cocodataset.org/train2017/{entry.pop('file_name')}"
        entry |= {"neg_category_ids": [90], "not_exhaustive_category_ids": [3]}
    for category, frequency in zip(data["categories"], "rf", strict=True):
        category |= {"frequency": frequency, "synset": "a.n.01", "image_count": 2}
    (coco / "annotations/lvis_v1_train.json").write_text(json.dumps(data))
    prepared.prepare(coco, tmp_path / "d", "lvis", splits=("train",))
    made = config(coco, "coco_json").data
    made.train.images, made.train.annotations = ".", "annotations/lvis_v1_train.json"
    direct = sources.open_source(made, "train")
    made = config(tmp_path / "d", "tfds").data
    made.tfds.name = "lvis_v1"
    found = sources.open_source(made, "train")
    assert_same(direct, found)
    truth = found.coco()
    assert truth["images"][0]["neg_category_ids"] == [90]
    assert [c["frequency"] for c in truth["categories"]] == ["r", "f"]
    folder = tmp_path / "d/lvis_v1/1.0.0"
    metadata = json.loads((folder / "metadata.json").read_text())
    assert [c["frequency"] for c in metadata["categories"]] == ["f", "r"]  # by id


def test_a_place_that_holds_something_else(folder, coco, tmp_path):
    prepared.prepare(folder, tmp_path / "d", name="coco2017")
    with pytest.raises(ValueError, match="holds another data set: folder, from instances_"):
        prepared.prepare(coco, tmp_path / "d", "coco")
    other = tmp_path / "d" / "mine" / "1.0.0"
    other.mkdir(parents=True)
    (other / "dataset_info.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds something else \(dataset_info\.json, \.\.\.\)"):
        prepared.prepare(folder, tmp_path / "d", name="mine")


def test_one_writer(folder, tmp_path):
    made = tmp_path / "d" / "own" / "1.0.0"
    made.mkdir(parents=True)
    with (
        lock.only_writer(str(made)),
        pytest.raises(OSError, match="Another process is writing to"),
    ):
        prepared.prepare(folder, tmp_path / "d")
    prepared.prepare(folder, tmp_path / "d")


def test_full_disk(folder, tmp_path, monkeypatch):
    path = tmp_path / "shard"
    (tmp_path / f"shard{shards.TEMPORARY}").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"Could not write {path}: .*No space left on device"):
        shards.write(str(path), [b"record"] * 3, shards.IMAGES)
    assert not list(tmp_path.glob("shard*"))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="is full: the images need"):
        prepared.prepare(folder, tmp_path / "d")


def test_an_image_that_changes_meanwhile(folder, tmp_path, monkeypatch):
    from jaxseg.data.prepare import checks

    sizes = checks.sizes

    def grown(given: inputs.Input) -> list[int]:
        return [size - (position == 1) for position, size in enumerate(sizes(given))]

    monkeypatch.setattr(checks, "sizes", grown)
    with pytest.raises(ValueError, match=r"2\.png of split train changed its size"):
        prepared.prepare(folder, tmp_path / "d")
    assert not list((tmp_path / "d").rglob(f"*{shards.TEMPORARY}"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"splits": ("train", "train")}, "is no name, or is there twice"),
        ({"splits": ("val_annotations",)}, "ends in _annotations is that of another split's"),
        ({"data_dir": "/proc/x"}, "--data_dir=/proc/x: .* cannot be made"),
        ({"splits": ("nope",)}, "instances_nope.json of split nope does not exist"),
        (
            {"kind": "coco", "splits": ("test",)},
            "coco has no split 'test'; allowed are train, val,",
        ),
        ({"name": "My Data"}, "--name='My Data': lower-case"),
        ({"shard_mb": 0}, "--shard_mb=0"),
        ({"data_dir": "gs://bucket"}, "mount the bucket"),
        ({"annotations": "/not/there"}, "There is no /not/there/instances_train.json"),
        ({"kind": "cityscapes"}, r"no files \*/\*_gtFine_instanceIds.png"),
    ],
)
def test_mistakes(folder, tmp_path, changes, named):
    with pytest.raises((ValueError, OSError), match=named):
        prepared.prepare(folder, changes.pop("data_dir", tmp_path / "d"), **changes)


def test_paths_with_the_split_in_them(tmp_path):
    data = coco_folder.content(3)
    prepared.write_images(tmp_path / "pictures" / "train_all", data)
    (tmp_path / "train.json").write_text(json.dumps(data))
    prepared.prepare(
        tmp_path,
        tmp_path / "d",
        images=str(tmp_path / "pictures" / "{split}_all"),
        annotations=str(tmp_path / "{split}.json"),
    )
    assert len(sources.open_source(config(tmp_path / "d", "tfds").data, "train")) == 3


def test_program(folder, tmp_path):
    command = [sys.executable, "-m", "jaxseg.data.prepare", "folder", f"--images={folder}"]
    command += [f"--annotations={folder}/annotations", "--data_dir=~/d", "--splits=val"]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "val: 2 images in 1 shards" in done.stdout
    prepared.prepare(folder, tmp_path / "here", splits=("val",))  # another process, the same bytes
    assert prepared.content(tmp_path / "d") == prepared.content(tmp_path / "here")
