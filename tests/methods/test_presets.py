"""The presets of configs/mask_rcnn.py: models of the right size, and every setting of a convention is used."""

import pytest

from configs import mask_rcnn as mask_rcnn_config
from jaxseg import methods
from jaxseg.data import settings as data_settings
from tests.methods import tiny

PRESETS = ("torchvision", "torchvision_v2", "detectron2", "mmdet")
# The libraries' own models without frozen norms, and without background's rows of the box deltas and masks.
BACKGROUND = 4 * 1025 + 257
FROZEN = 2 * 26_560  # scales and biases of ResNet-50's batch norms


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("torchvision", 44_454_513 - FROZEN - BACKGROUND),
        ("torchvision_v2", 46_359_409 - BACKGROUND),
        ("detectron2", 44_343_216),
        ("mmdet", 44_343_216 + FROZEN),
    ],
)
def test_parameters(preset, parameters):
    assert methods.count_parameters(mask_rcnn_config.get_config(preset)) == parameters


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("more", ["", ",exact", ",root=DIR", ",runlocal", ",r101,style=caffe"])
def test_presets_compose_and_are_allowed(preset, more):
    config = mask_rcnn_config.get_config(preset + more)
    data_settings.check(config.data)
    assert (config.model.num_classes == 0) == ("root" in more)
    config.model.num_classes = 3
    methods.build(config)
    assert not config.model.ignore_padding
    if "runlocal" not in more:  # which trains from nothing
        assert config.freeze and config.model.backbone.norm != "group_norm"


def test_epsilon_of_torchvisions_frozen_norms():
    """0 for the weights that torchvision publishes; see the docstring of the config."""
    epsilon = lambda arg: mask_rcnn_config.get_config(arg).model.backbone.norm_epsilon  # noqa: E731
    assert epsilon("torchvision") == 0.0 and epsilon("torchvision,eps=1e-5") == 1e-5
    assert epsilon("torchvision_v2") == epsilon("detectron2") == epsilon(None) == 1e-5
    model = methods.build(mask_rcnn_config.get_config("torchvision,r18"))
    assert model.backbone.norm().epsilon == 0.0


def test_how_a_backbone_was_trained():
    def style(arg):
        model = mask_rcnn_config.get_config(arg).model
        return model.backbone.stride_in_1x1, model.pixel_std[0] == 1.0

    assert style("detectron2") == style("mmdet,style=caffe") == (True, True)
    assert style("mmdet") == style("detectron2,style=pytorch") == (False, False)
    assert style("detectron2,x101_32x8d") == style("torchvision") == (False, False)


CHANGES = {
    "ignore_padding": False,
    "two_sided_clamp": True,
    "roi_sampling.ratio": 0,
    "roi_sampling.max_ratio": 8,
    "roi_sampling.aligned": False,
    "roi_sampling.level_tolerance": 1e-6,
    "backbone.norm_epsilon": 0.0,
    "rpn.round_anchors": True,
    "rpn.fitted_stride": True,
    "box_head.convs": 4,
    "box_head.channels": 8,
    "box_head.norm": "group_norm",
    "mask_head.soft_targets": True,
    "criterion.rpn.low_quality": "reassign",
    "criterion.rpn.low_quality_iou": 0.3,
    "criterion.rpn.average": "sampled",
    "criterion.roi.low_quality": "reassign",
    "criterion.roi.low_quality_iou": 0.5,
    "test.min_size": 1e-2,
}


@pytest.mark.parametrize("key", CHANGES)
def test_every_setting_reaches_the_model(key):
    def built(**changes):
        config = tiny.config()
        config.model.update_from_flattened_dict(changes)
        return repr(methods.build(config))

    assert built() == built() != built(**{key: CHANGES[key]})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("roi_sampling.ratio", -1, "roi_sampling.ratio=-1: allowed is a whole number >= 0"),
        ("roi_sampling.aligned", "no", "roi_sampling.aligned='no': allowed is True, False"),
        ("backbone.norm_epsilon", -1e-5, "norm_epsilon=-1e-05: allowed is a number >= 0"),
        ("criterion.rpn.low_quality", "yes", "low_quality='yes': allowed is none, keep, reassign"),
        ("criterion.rpn.average", "mean", "average='mean': allowed is slots, sampled"),
        ("test.paste", "nearest", "test.paste='nearest': allowed is continuous, torchvision"),
        ("box_head.convs", -1, "box_head.convs=-1: allowed is a whole number >= 0"),
    ],
)
def test_settings_without_meaning_are_named(key, value, message):
    config = tiny.config()
    with config.ignore_type():
        config.model.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=message):
        methods.build(config)
