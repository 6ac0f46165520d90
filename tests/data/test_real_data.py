"""The data sets that JAXSEG_TEST_DATA holds."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from configs import common
from jaxseg.data import browse, crops, geometry, pipeline, sources
from tests.data import coco_folder


def _config(folder, split="train"):
    config = common.base()
    config.data.root = str(folder)
    config.data.train.images = split
    config.data.train.annotations = f"annotations/instances_{split}.json"
    config.data.buckets = ((256, 320), (320, 256))
    config.data.resize.short, config.data.resize.max = (256,), 320
    config.data.max_instances = 400
    config.data.mask_crop_size = 64
    config.data.keep_empty = True
    config.data.workers = 0
    config.train.batch_size = 4
    return config


@pytest.mark.parametrize(
    ("name", "split", "images", "objects", "crowds", "classes"),
    [
        ("nuclei", "train", 451, 19_867, 0, 1),
        ("nuclei", "val", 80, 3_460, 0, 1),
        ("facades", "train", 349, 10_848, 0, 10),
        ("facades", "val", 88, 3_486, 0, 10),
        ("coco_cc", "train", 92, 819, 9, 80),
    ],
)
def test_loads(test_data, name, split, images, objects, crowds, classes):
    config = _config(test_data / name, split)
    source = sources.open_source(config.data, "train")
    assert not source.problems.total()
    assert (len(source), len(source.categories)) == (images, classes)
    assert sum(info.num_objects for info in source.infos) == objects
    items = [item for i in range(len(source)) for item in source.instances(i)]
    assert sum(item.crowd for item in items) == crowds
    with pipeline.train_batches(config, source, first_step=0, last_step=2) as batches:
        for host in batches:
            assert host.batch.valid.all()
            infos = {info.id: info for info in source.infos}
            for slot, number in enumerate(host.image_ids.tolist()):
                assert host.batch.targets.valid[slot].sum() == infos[number].num_objects


def test_coco_masks_survive_crop_and_paste(test_data):
    source = sources.open_source(_config(test_data / "coco_cc").data, "train")
    overlaps = []
    for index, info in enumerate(source.infos):
        size = (info.height, info.width)
        place = geometry.Geometry(size, size, (0, 0), size, False)
        for item in source.instances(index):
            if item.crowd or item.area < 200:
                continue
            parts = [part.tolist() for part in item.segmentation]
            rles = mask_utils.frPyObjects(parts, *size)
            expected = mask_utils.decode(mask_utils.merge(rles)).astype(bool)
            crop = crops.crop(item.segmentation, place, item.box, (112, 112))
            found = np.zeros(size, bool)
            window, inside = browse.paste(crop, item.box, *size)
            found[window] = inside
            overlaps.append((found & expected).sum() / (found | expected).sum())
    assert len(overlaps) > 500
    assert np.mean(overlaps) > 0.95


def test_browse(tmp_path, capsys):
    config = coco_folder.shapes()
    browse.browse(config, str(tmp_path), 5, "train")
    assert len(list(tmp_path.glob("*.png"))) == 5
    printed = capsys.readouterr().out
    assert "12 images" in printed and "star" in printed
