"""The published schedules of LVIS and Cityscapes are the defaults of `lvis` and `cityscapes`, in every config file."""

import pytest
from ml_collections import ConfigDict

from configs import (
    atmask_rcnn,
    brefine,
    cascade_mask_rcnn,
    common,
    mask_rcnn,
    maskplus,
    mr_rcnn,
)
from jaxseg import methods
from jaxseg.training import optimizer, setup

FILES = {
    "mask_rcnn": mask_rcnn,
    "cascade_mask_rcnn": cascade_mask_rcnn,
    "atmask_rcnn": atmask_rcnn,
    "maskplus": maskplus,
    "mr_rcnn": mr_rcnn,
    "brefine": brefine,
}


def schedule(config):
    train, optim = config.train, config.optim
    rate = optim.lr * train.batch_size / optim.base_batch_size
    return train.batch_size, rate, train.steps, tuple(optim.milestones)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("arg", "expected"),
    [
        # Detectron2's LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml.
        ("lvis", (16, 0.02, 180_000, (120_000, 160_000))),
        ("lvis,recipe=maskplus", (8, 0.01, 360_000, (240_000, 320_000))),  # as many images
        # MMDetection's mask_rcnn_r50_fpn_1x_cityscapes.py: 8 epochs of 8 x 2,975 images, 8 a step.
        ("cityscapes", (8, 0.01, 23_800, (20_825,))),
        # The same and LVIS's 12 epochs of 7,674 x 16 images with the 6 images of BRefine.
        ("cityscapes,recipe=brefine", (6, 0.0075, 31_728, (27_762,))),
        ("lvis,recipe=brefine", (6, 0.0075, 12 * 20_464, (8 * 20_464, 11 * 20_464))),
    ],
)
def test_schedules(file, arg, expected):
    more = (
        ",end_to_end" if file == "mr_rcnn" else ""
    )  # else: the paper's steps from a trained model
    config = FILES[file].get_config(f"{arg},r50,root=DIR{more}")
    batch, rate, steps, drops = schedule(config)
    assert (batch, steps, drops) == (expected[0], *expected[2:])
    assert rate == pytest.approx(expected[1])
    if "lvis" in arg:
        assert config.data.repeat_threshold == 0.001
        assert config.data.resize.short == (640, 672, 704, 736, 768, 800)
        assert config.model.num_classes == 1203
        assert config.model.test.max_detections == config.eval.max_detections == 300
        assert config.init_classes == ""
    else:
        assert config.data.repeat_threshold == 0.0
        assert config.data.resize.short == tuple(range(800, 1025, 32))
        assert (config.data.resize.max, config.data.eval_resize.short) == (2048, 1024)
        assert config.data.buckets == ((1024, 2048),)
        assert config.init_classes == "by_name,rider=person"


@pytest.mark.parametrize("arg", ["lvis", "cityscapes", "cityscapes,recipe=brefine,ranked"])
def test_they_are_allowed(arg):
    config = setup.checked(mask_rcnn.get_config(f"{arg},root=DIR"), common.base())
    assert isinstance(config, ConfigDict)
    optimizer.make_schedule(config)
    methods.build(config)


def test_longer_and_smaller():
    assert schedule(mask_rcnn.get_config("lvis,2x"))[2:] == (360_000, (240_000, 320_000))
    assert schedule(mask_rcnn.get_config("lvis,3x"))[2:] == (540_000, (420_000, 500_000))
    assert schedule(mask_rcnn.get_config("cityscapes,2x"))[2:] == (47_600, (41_650,))
    for arg in ("cityscapes,small", "cityscapes,runlocal"):  # which train from nothing
        config = mask_rcnn.get_config(arg)
        assert config.init_classes == "" and config.train.steps <= 3000
    assert mask_rcnn.get_config("coco").data.repeat_threshold == 0.0
