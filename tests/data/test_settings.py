from __future__ import annotations

import copy
import importlib
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from configs import common
from jaxseg.data import pipeline, settings, sources
from tests.data import coco_folder

NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"source": "imagenet"},
            r"data\.source='imagenet': allowed are coco_json, shapes and tfds",
        ),
        ({"buckets": ()}, r"data\.buckets=\(\): one or more pairs"),
        ({"buckets": (512, 512)}, r"512 is no pair"),
        ({"buckets": ((512,),)}, r"\(512,\) is no pair"),
        ({"buckets": (("512", 512),)}, r"is no pair"),
        ({"buckets": ((512, 0),)}, r"positive multiples of 32.*Take \(512, 32\)"),
        ({"buckets": ((512, 500),)}, r"Take \(512, 512\) instead of \(512, 500\)"),
        ({"resize.mode": "stretch"}, r"data\.resize\.mode='stretch': allowed are shortest_edge"),
        ({"resize.short": ()}, r"data\.resize\.short=\(\)"),
        ({"resize.short": (640, 0)}, r"data\.resize\.short=\(640, 0\)"),
        ({"resize.max": -1}, r"data\.resize\.max=-1"),
        ({"eval_resize.short": 0}, r"data\.eval_resize\.short=0"),
        ({"eval_resize.max": 0}, r"data\.eval_resize\.max=0"),
        ({"resize.mode": "lsj", "resize.scale": (2.0, 1.0)}, r"data\.resize\.scale=\(2\.0, 1\.0\)"),
        ({"resize.mode": "lsj", "resize.size": (0, 1)}, r"data\.resize\.size=\(0, 1\)"),
        ({"resize.mode": "lsj", "resize.size": (1024, 1024)}, r"fits into none of data\.buckets"),
        ({"flip": 1.5}, r"data\.flip=1\.5: a probability"),
        ({"flip": NAN}, r"data\.flip=nan"),
        ({"max_instances": 0}, r"data\.max_instances=0: .* at least 1"),
        ({"max_crowds": -1}, r"data\.max_crowds=-1: .* at least 0"),
        ({"mask_crop_size": 30}, r"data\.mask_crop_size=30: a positive multiple of 8"),
        ({"mask_crop_size": 0}, r"data\.mask_crop_size=0"),
        ({"workers": -1}, r"data\.workers=-1"),
        ({"prefetch": 0}, r"data\.prefetch=0"),
        ({"source": "shapes", "shapes.train": -1}, r"data\.shapes\.train=-1"),
        ({"source": "shapes", "shapes.size": (90, 50)}, r"data\.shapes\.size=\(90, 50\)"),
        ({"source": "shapes", "shapes.size": (8, 50)}, r"at least 16 pixels"),
        ({"source": "shapes", "shapes.size": (64,)}, r"two whole numbers"),
        ({"source": "shapes", "shapes.objects": (5, 3)}, r"data\.shapes\.objects=\(5, 3\)"),
        ({"source": "tfds"}, r"data\.root is empty"),
        ({"source": "tfds", "root": "d", "tfds.name": "My Data"}, r"data\.tfds\.name='My Data'"),
        ({"source": "shapes", "shapes.seed": -1}, r"data\.shapes\.seed=-1"),
    ],
)
def test_senseless_values(changes, named):
    data = common.base().data
    settings.check(data)
    data.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=named):
        settings.check(data)


def test_buckets_that_shrink_every_image_are_told_once(caplog):
    data = common.base().data
    settings.check(data)
    assert not caplog.records
    data.buckets = ((608, 1344), (1344, 608))
    for _ in range(3):
        settings.check(data)
    assert [r.message.split()[0] for r in caplog.records] == ["data.resize", "data.eval_resize"]
    assert "at least 640 pixels" in caplog.records[0].message


def test_every_config_passes(caplog):
    for path in (pathlib.Path(__file__).parents[2] / "configs").glob("[a-z]*.py"):
        module = importlib.import_module(f"configs.{path.stem}")
        if hasattr(module, "get_config"):
            settings.check(module.get_config().data)
    assert not caplog.records


def test_no_crowds_and_small_scenes():
    config = copy.deepcopy(coco_folder.shapes())
    config.data.max_crowds = 0
    config.data.shapes.size = (16, 16)
    source = sources.open_source(config.data, "train")
    assert sum(len(source.instances(index)) for index in range(len(source))) > 5
    with pipeline.train_batches(config, source, first_step=0, last_step=1) as batches:
        (host,) = batches
    assert host.batch.targets.crowd_boxes.shape == (4, 0, 4)
    assert host.batch.targets.crowd_valid.shape == (4, 0) and np.all(host.batch.valid)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [("--size 90 50", "--size=(90, 50)"), ("--train=-1", "--train=-1")],
)
def test_mistakes_in_the_command_that_writes_scenes(tmp_path, arguments, named):
    command = [sys.executable, "-m", "jaxseg.data.shapes", f"--out={tmp_path}", *arguments.split()]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and named in ended.stderr and "Traceback" not in ended.stderr
