"""Cascades of Detectron2 and MMDetection become our variables; files of other methods are told what to use."""

import functools
import re

import numpy as np
import pytest

from jaxseg import weights
from jaxseg.weights import convert, layouts, start
from tests.weights import foreign

R18 = "maskrcnn_resnet18_fpn"
STAGES = 3


def config(mask_heads=1, stages=STAGES):
    made = foreign.config(R18)
    made.method, made.model.box_head.class_agnostic = "cascade_mask_rcnn", True
    cascade = made.model.cascade
    cascade.ious, cascade.coders = cascade.ious[:stages], cascade.coders[:stages]
    cascade.loss_weights, cascade.mask_heads = cascade.loss_weights[:stages], mask_heads
    return made


def source(layout, mask_heads=0, stages=STAGES):
    plain = getattr(foreign, layout)(foreign.torchvision(R18))
    return foreign.cascade(plain, stages=stages, mask_heads=mask_heads)


def variables(found):
    return convert.flat({"params": found.params, "batch_stats": found.batch_stats})


@functools.cache
def mask_rcnn():
    return variables(weights.from_torchvision(foreign.torchvision(R18), foreign.config(R18)))


def expected(path):
    """What `path` is in a file by `foreign.cascade`, out of the Mask R-CNN that the file was made of."""
    plain = mask_rcnn()
    stage = re.search(r"(?<=_head)_(\d)(?=/)", path)
    value = plain[path.replace(stage[0], "") if stage else path]
    if "/deltas/" in path and "roi_heads" in path:
        value = value[..., :4]
    return value + np.float32(stage[1] if stage else 0)


@pytest.mark.parametrize(
    ("layout", "in_file", "mask_heads"), [("detectron2", 0, 1), ("mmdet", 3, 3), ("mmdet", 0, 1)]
)
def test_every_array_of_a_cascade_is_used_and_every_variable_filled(layout, in_file, mask_heads):
    state_dict, made = source(layout, in_file), config(mask_heads)
    found = weights.from_any(state_dict, made)
    counters = {n for n in state_dict if n.endswith("num_batches_tracked")}
    assert found.report.layout == layout and not found.report.initial and not found.report.constant
    assert set(found.report.used) == set(state_dict) - counters
    ours = variables(found)
    assert {path: value.shape for path, value in ours.items()} == convert.shapes(made)
    for path, value in ours.items():
        np.testing.assert_array_equal(value, expected(path), err_msg=path)
    # Detectron2 and MMDetection number what is below differently: no head has another's values.
    kernels = [ours[f"params/roi_heads/box_head_{stage}/fc0/kernel"] for stage in range(STAGES)]
    assert not np.array_equal(kernels[0], kernels[1])
    assert ours["params/roi_heads/box_head_2/deltas/bias"].shape == (4,)


def test_two_stages_and_a_norm():
    made = config(2, stages=2)
    made.model.mask_head.norm = made.model.box_head.norm = "group_norm"
    names = {
        row.find(module)
        for row in layouts.BUILDERS["mmdet"](made).rows
        for module in ("roi_heads/mask_head_1/norm3", "roi_heads/box_head_2/fc0")
    }
    assert names == {None, "roi_head.mask_head.1.convs.3.gn"}
    plain = layouts.BUILDERS["mmdet"](foreign.config(R18)).rows
    assert "roi_head.bbox_head.fc_cls" in [row.theirs for row in plain]


def test_boxes_of_all_classes_are_taken_for_other_classes_too():
    made = config()
    made.model.num_classes = 2
    found = layouts.fill(source("detectron2"), made, classes="none").report
    layers = ("box_head_0/classes", "box_head_1/classes", "box_head_2/classes")
    new = {
        f"params/roi_heads/{layer}/{leaf}"
        for layer in (*layers, "mask_head/predictor")
        for leaf in ("kernel", "bias")
    }
    assert set(found.initial) == new and len(found.ignored) == len(new)


CASES = {
    "a cascade for Mask R-CNN": (
        lambda: (source("detectron2"), foreign.config(R18)),
        r"of a cascade: 3 box heads and 1 mask head. The config is of method='mask_rcnn'.*"
        r"use configs/cascade_mask_rcnn.py:detectron2",
    ),
    "MMDetection's for Mask R-CNN": (
        lambda: (source("mmdet", 3), foreign.config(R18)),
        r"of a cascade: 3 box heads and 3 mask heads.*configs/cascade_mask_rcnn.py:mmdet",
    ),
    "Mask R-CNN for a cascade": (
        lambda: (foreign.mmdet(foreign.torchvision(R18)), config(3)),
        r"mmdet's layout\) is of a detector with one box head.*method='cascade_mask_rcnn' with 3.*"
        r"For this file use configs/mask_rcnn.py:mmdet; a cascade starts from the weights of",
    ),
    "torchvision's Mask R-CNN for a cascade": (
        lambda: (foreign.torchvision(R18), config()),
        r"torchvision's layout.*use configs/mask_rcnn.py:torchvision;",
    ),
    "too few mask heads": (
        lambda: (source("mmdet", 3), config(1)),
        r"has 3 box heads and 3 mask heads, and the config 3 box heads and 1 mask head: see "
        r"config.model.cascade.*mask_heads",
    ),
    "too many stages": (
        lambda: (source("detectron2"), config(stages=2)),
        r"has 3 box heads and 1 mask head, and the config 2 box heads.*ious",
    ),
    "Faster R-CNN": (
        lambda: (
            {
                n: a
                for n, a in foreign.detectron2(foreign.torchvision(R18)).items()
                if "mask" not in n
            },
            config(),
        ),
        r"of a detector with one box head",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_files_of_other_methods_are_refused_with_what_to_use(case):
    make, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        weights.from_any(*make())


def test_a_training_that_starts_from_another_method_is_told_which_file(tmp_path):
    path = tmp_path / "plain.safetensors"
    weights.save_safetensors(path, foreign.detectron2(foreign.torchvision(R18)))
    with pytest.raises(ValueError, match=rf"init_from='{path}'.*one box head.*mask_rcnn.py:det"):
        start.read(str(path), config(), convert.shapes(config()), ())


@pytest.mark.parametrize("mask_heads", [1, 3])
def test_a_cascade_without_masks_leaves_them_to_their_initialisers(mask_heads):
    state_dict = {n: a for n, a in source("detectron2").items() if "mask" not in n}
    made = config(mask_heads)
    found = layouts.fill(state_dict, made)
    masks = {path for path in convert.shapes(made) if "mask_head" in path}
    assert found.report.initial == dict.fromkeys(masks, "the file has no mask head")
    assert set(found.values) == set(convert.shapes(made)) - masks


def test_a_backbone_starts_a_cascade():
    state_dict = foreign.backbone(foreign.torchvision(R18))
    found = layouts.fill(state_dict, config()).report
    assert all(path.split("/")[1] != "backbone" for path in found.initial)
