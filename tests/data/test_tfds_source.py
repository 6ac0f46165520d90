"""A prepared data set gives what its annotation file gives."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from configs import mask_rcnn
from jaxseg.data import browse, pipeline, settings, source, sources
from jaxseg.data.prepare import catalogue, library
from tests.data import coco_folder, prepared


def config(root, kind):
    made = coco_folder.small(mask_rcnn.get_config(f"own,root={root}" + ",tfds" * (kind == "tfds")))
    made.data.keep_empty = False
    return made


def both(folder, data_dir, split="train"):
    direct = sources.open_source(config(folder, "coco_json").data, split)
    return direct, sources.open_source(config(data_dir, "tfds").data, split)


def assert_same(direct, prepared_, orders=((0, 1), (1, 0)), step=1):
    """`orders`: image and objects (0 and 1) are asked for in these; `step`: of every so many images."""
    assert prepared_.infos == direct.infos and prepared_.categories == direct.categories
    assert prepared_.annotated == direct.annotated and len(prepared_) == len(direct)
    assert prepared_.problems.counts == direct.problems.counts
    for index, info in list(enumerate(direct.infos))[::step]:
        for order in orders:
            found = {}
            for what in order:
                if what == 0 and not info.missing:
                    found[0] = np.array_equal(prepared_.image(index), direct.image(index))
                if what == 1:
                    ours, theirs = prepared_.instances(index), direct.instances(index)
                    found[1] = list(map(repr, ours)) == list(map(repr, theirs))
                    classes = [item.class_index for item in theirs]
                    found[2] = prepared_.image_classes(index).tolist() == classes
            assert all(found.values()), info
    truths = [json.dumps(s.coco(), sort_keys=True) for s in (direct, prepared_)]
    assert truths[0] == truths[1]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder, data_dir = tmp_path_factory.mktemp("given"), tmp_path_factory.mktemp("data_dir")
    prepared.write(folder, "train", prepared.awkward())
    without = prepared.awkward(5)
    del without["annotations"]
    prepared.write(folder, "test", without)
    told = prepared.prepare(folder, data_dir, shard_mb=1)
    assert "train: 7 images in 1 shards" in told and "test: 5 images" in told
    return folder, data_dir


@pytest.mark.parametrize("split", ["train", "test"])
def test_same_as_reading_directly(folders, split):
    direct, found = both(*folders, split)
    assert isinstance(found, source.Source)
    assert found.annotated == (split == "train")
    assert_same(direct, found)
    copy = pickle.loads(pickle.dumps(found))  # after reading: files are open
    assert_same(direct, copy)


def test_real_coco(test_data, tmp_path):
    given = test_data / "coco_cc"
    prepared.prepare(given, tmp_path, shard_mb=1)
    assert len(list(tmp_path.glob("own/1.0.0/own-train.array_record-*-of-00005"))) == 5
    assert_same(*both(given, tmp_path), orders=[(0, 1)], step=5)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_equal_seeds_give_equal_batches(folders, workers):
    batches = []
    for root, kind in zip(folders, ("coco_json", "tfds"), strict=True):
        made = config(root, kind)
        made.data.workers = workers
        opened = sources.open_source(made.data, "train")
        with pipeline.train_batches(made, opened, first_step=0, last_step=3) as found:
            batches.append([(b.image_ids, b.batch) for b in found])
    for (ids, one), (other_ids, other) in zip(*batches, strict=True):
        np.testing.assert_array_equal(ids, other_ids)
        np.testing.assert_array_equal(one.images, other.images)
        for name in ("boxes", "classes", "valid", "masks", "crowd_boxes", "crowd_valid"):
            ours, theirs = (getattr(b.targets, name) for b in (one, other))
            np.testing.assert_array_equal(ours, theirs)


def test_browse(folders, tmp_path, capsys):
    made = config(folders[1], "tfds")
    browse.browse(made, str(tmp_path / "out"), 3, "train")
    assert "7 images" in capsys.readouterr().out and len(list((tmp_path / "out").iterdir())) == 3


def test_tfds_opens_it_alone(folders):
    """In the order of ids, without jaxseg or TensorFlow."""
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        f"data = tfds.data_source('own', split='train', data_dir={str(folders[1])!r})\n"
        f"folder = {str(folders[1] / 'own' / '1.0.0')!r}\n"
        "builder = tfds.builder_from_directory(folder)\n"
        "assert len(builder.as_data_source('train_annotations')) == len(data) == 7\n"
        "assert builder.info.metadata['categories'][0]['name'] == 'early'\n"
        "print([d['image/id'] for d in data], *[d['image/file_name'].decode() for d in data])\n"
        "print(len(data[1]['image']), sorted(data[1]['objects']['id'].tolist()))\n"
        "assert not {'jaxseg', 'tensorflow'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "[1, 2, 3, 4, 5, 6, 7] " + " ".join(f"{i}.png" for i in range(1, 8))
    assert second == f"{(folders[0] / 'train' / '2.png').stat().st_size} [2, 101, 102]"


@pytest.mark.parametrize("kind", ["coco", "lvis", "cityscapes", "folder"])
def test_config_arguments_name_what_was_prepared(kind):
    made = mask_rcnn.get_config(f"{kind.replace('folder', 'own')},tfds,root=DIR").data
    assert (made.source, made.root) == ("tfds", "DIR")
    assert made.tfds.name == catalogue.KINDS[kind].name
    settings.check(made)
    with pytest.raises(ValueError, match="`shapes` are drawn, not read"):
        mask_rcnn.get_config("shapes,tfds")


def test_what_is_not_there(folders, tmp_path):
    data = config(folders[1], "tfds").data
    with pytest.raises(
        FileNotFoundError, match=r"Split 'val' of .* is not there; whole are test, train"
    ):
        sources.open_source(data, "val")
    data.tfds.name = "other"
    with pytest.raises(FileNotFoundError, match=r"no prepared data set .*; in .* there is own\."):
        sources.open_source(data, "train")


def test_without_the_packages(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "array_record.python.array_record_module", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxseg\[tfds\]'"):
        sources.open_source(config(folders[1], "tfds").data, "train")
    with pytest.raises(ImportError, match="TensorFlow is not needed"):
        library.array_record()


def test_damaged_record(folders, tmp_path):
    folder, data_dir = tmp_path / "given", tmp_path / "data_dir"
    prepared.write(folder, "train", prepared.awkward())
    prepared.prepare(folder, data_dir)
    (path,) = data_dir.glob("own/1.0.0/own-train.array_record-*")
    content = bytearray(path.read_bytes())
    place = content.find((folder / "train" / "2.png").read_bytes())
    content[place + 100] ^= 255
    path.write_bytes(content)
    found = sources.open_source(config(data_dir, "tfds").data, "train")
    index = next(i for i, info in enumerate(found.infos) if info.id == 2)
    with pytest.raises(source.ImageError, match=r"2\.png: record is damaged"):
        found.image(index)
    (objects,) = data_dir.glob("own/1.0.0/own-train_annotations.array_record-*")
    whole = objects.read_bytes()
    objects.write_bytes(
        bytes(b ^ 255 if 64 < i < len(whole) - 4096 else b for i, b in enumerate(whole))
    )
    for read in (lambda: found.instances(index), found.coco):
        with pytest.raises(ValueError, match=r"'train_annotations' in .* is damaged .*run jaxseg"):
            read()
    objects.write_bytes(whole)
    path.write_bytes(content[:-1000])
    with pytest.raises(
        ValueError, match=r"own-train\.array_record-00000-of-00001 is damaged: it has"
    ):
        sources.open_source(config(data_dir, "tfds").data, "train")


@pytest.mark.parametrize("when", ["before it is opened", "later"])
@pytest.mark.parametrize("what", ["shard removed", "shard cut off", "folder removed"])
def test_what_disappears_in_mid_training(tmp_path, when, what):
    """What was open stays readable; what is not counts as images that cannot be read."""
    prepared.write(tmp_path / "given", "train", prepared.awkward(40))
    prepared.prepare(tmp_path / "given", tmp_path / "data_dir")
    (path,) = tmp_path.glob("data_dir/own/1.0.0/own-train.array_record-*")
    made = config(tmp_path / "data_dir", "tfds")
    opened = sources.open_source(made.data, "train")
    with pipeline.train_batches(made, opened, first_step=0, last_step=9) as batches:
        if when == "later":
            assert next(batches).batch.valid.all()
        if what == "shard removed":
            path.unlink()
        elif what == "shard cut off":
            os.truncate(path, path.stat().st_size // 3)
        else:
            shutil.rmtree(path.parent)
        rest = list(batches)
    assert len(rest) >= 8
    whole = when == "later" and what != "shard cut off"
    for batch in rest:
        # Of what was cut off, a part may have been read ahead.
        assert all(reason.startswith("record is damaged or not") for reason, _ in batch.problems)
        assert batch.batch.valid.sum() == len(batch.image_ids) - len(batch.problems)
        assert batch.batch.valid.all() if whole else batch.problems
