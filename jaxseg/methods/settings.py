"""Checks of `config.model` before anything is built: each message names the key, the value and what is allowed."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxseg.modeling import criterion, deform_conv, norms, resnet
from jaxseg.ops import matching, roi_align

PASTES = ("continuous", "torchvision")  # see evaluation.results.paste_region

Rule = tuple[Callable[[Any], bool], str]  # what holds, and in words


def _one_of(*allowed: Any) -> Rule:
    return lambda v: v in allowed, ", ".join(map(str, allowed))


def _number(low: float, high: float = float("inf"), *, above: bool = False) -> Rule:
    def holds(v):
        return _is_number(v) and (low < v if above else low <= v) and v <= high

    least = f"a number {'>' if above else '>='} {low:g}"
    return holds, least if high == float("inf") else f"{least} and <= {high:g}"


def _whole(low: int) -> Rule:
    return lambda v: _is_whole(v) and v >= low, f"a whole number >= {low}"


def _several(rule: Rule, count: int | None = None) -> Rule:
    holds, words = rule
    size = "one or more" if count is None else str(count)

    def all_hold(v):
        if not isinstance(v, tuple | list) or not v or count not in (None, len(v)):
            return False
        return all(holds(x) for x in v)

    return all_hold, f"a tuple of {size}, each {words}"


def _is_number(v: Any) -> bool:
    return isinstance(v, numbers.Real) and not isinstance(v, bool)


def _is_whole(v: Any) -> bool:
    return isinstance(v, numbers.Integral) and not isinstance(v, bool)


_SHARE = _number(0.0, 1.0)
_FLAG = _one_of(True, False)
_CODER = _several(_number(0.0, above=True), 4)

RULES: Mapping[str, Rule] = {
    "dtype": _one_of("float32", "bfloat16", "float64"),
    "pixel_mean": _several(_number(-float("inf")), 3),
    "pixel_std": _several(_number(0.0, above=True), 3),
    "roi_align": _one_of(*roi_align.IMPLEMENTATIONS),
    "roi_sampling.ratio": _whole(0),
    "roi_sampling.max_ratio": _whole(1),
    "roi_sampling.aligned": _FLAG,
    "roi_sampling.level_tolerance": _number(0.0, 0.5),
    "ignore_padding": _FLAG,
    "two_sided_clamp": _FLAG,
    "backbone.name": _one_of("resnet"),
    "backbone.depth": _one_of(*resnet.DEPTHS),
    "backbone.width": _whole(1),
    "backbone.norm": _one_of(*norms.NORMS),
    "backbone.norm_epsilon": _number(0.0),
    "backbone.stride_in_1x1": _FLAG,
    "backbone.groups": _whole(1),
    "backbone.width_per_group": _whole(1),
    "backbone.deform": _one_of("none", *deform_conv.VERSIONS),
    "backbone.deform_stages": _several(_one_of(2, 3, 4)),
    "backbone.deform_groups": _whole(1),
    "fpn.channels": _whole(1),
    "fpn.norm": _one_of(*norms.NORMS),
    "rpn.channels": _whole(1),
    "rpn.convs": _whole(0),
    "rpn.anchor_sizes": _several(_number(0.0, above=True), len(resnet.ResNet.strides) + 1),
    "rpn.aspect_ratios": _several(_number(0.0, above=True)),
    "rpn.pre_nms": _several(_whole(1), 2),
    "rpn.post_nms": _several(_whole(1), 2),
    "rpn.nms_iou": _SHARE,
    "rpn.min_size": _number(0.0),
    "rpn.round_anchors": _FLAG,
    "rpn.fitted_stride": _FLAG,
    "box_head.name": _one_of("fc"),
    "box_head.pool": _whole(1),
    "box_head.fcs": _whole(0),
    "box_head.fc_dim": _whole(1),
    "box_head.convs": _whole(0),
    "box_head.channels": _whole(1),
    "box_head.norm": _one_of(*norms.NORMS),
    "box_head.class_agnostic": _FLAG,
    "mask_head.name": _one_of("fcn"),
    "mask_head.pool": _whole(1),
    "mask_head.convs": _whole(0),
    "mask_head.channels": _whole(1),
    "mask_head.norm": _one_of(*norms.NORMS),
    "mask_head.soft_targets": _FLAG,
    "mask_head.class_agnostic": _FLAG,
    "refine.align": _one_of("shape", "roi"),
    "refine.guidance": _one_of("mul", "one_plus", "normalised"),
    "refine.cls": _FLAG,
    "refine.reg": _FLAG,
    "refine.iou": _SHARE,
    "refine.relabel": _FLAG,
    "refine.pseudo_labels": _FLAG,
    "refine.mask_grad": _FLAG,
    "refine.info_flow": _one_of("B", "Br", "none"),
    "refine.flow_relu": _FLAG,
    "criterion.name": _one_of(*criterion.CRITERIA),
    "criterion.rpn.positive_iou": _SHARE,
    "criterion.rpn.negative_iou": _SHARE,
    "criterion.rpn.low_quality": _one_of(*matching.LOW_QUALITY),
    "criterion.rpn.low_quality_iou": _SHARE,
    "criterion.rpn.samples": _whole(1),
    "criterion.rpn.positive_fraction": _SHARE,
    "criterion.rpn.coder": _CODER,
    "criterion.rpn.smooth_l1_beta": _number(0.0),
    "criterion.rpn.average": _one_of("slots", "sampled"),
    "criterion.roi.positive_iou": _SHARE,
    "criterion.roi.low_quality": _one_of(*matching.LOW_QUALITY),
    "criterion.roi.low_quality_iou": _SHARE,
    "criterion.roi.samples": _whole(1),
    "criterion.roi.positive_fraction": _SHARE,
    "criterion.roi.coder": _CODER,
    "criterion.roi.smooth_l1_beta": _number(0.0),
    "criterion.crowd_iof": _number(0.0, above=True),
    "test.score": _SHARE,
    "test.nms_iou": _SHARE,
    "test.max_detections": _whole(1),
    "test.candidates": _whole(1),
    "test.min_size": _number(0.0),
    "test.score_alpha": _number(0.0),
    "test.refine_topk": _whole(1),
    "test.mask_threshold": _SHARE,
    "test.paste": _one_of(*PASTES),
}


def validate(config: ConfigDict) -> None:
    """Raises ValueError for the first model setting without meaning."""
    model = config.model
    for key, (holds, words) in RULES.items():
        value = model
        for part in key.split("."):
            if part not in value:
                raise ValueError(
                    f"config.model.{key} is missing: the config is of another version of jaxseg. "
                    f"Allowed is {words}; configs/common.py has the default."
                )
            value = value[part]
        if not holds(value):
            raise ValueError(f"config.model.{key}={value!r}: allowed is {words}.")
    _check_backbone(model.backbone)
    low, high = model.criterion.rpn.negative_iou, model.criterion.rpn.positive_iou
    if low > high:
        raise ValueError(
            f"config.model.criterion.rpn.negative_iou={low} is above positive_iou={high}."
        )
    roi = model.criterion.roi
    if int(roi.samples * roi.positive_fraction) < 1:
        raise ValueError(
            f"config.model.criterion.roi: {roi.samples} samples with positive_fraction="
            f"{roi.positive_fraction} leave no slot for a positive; raise one of them."
        )
    if not _is_whole(model.num_classes) or model.num_classes < 1:
        raise ValueError(
            f"config.model.num_classes={model.num_classes!r}: allowed is a whole number >= 1. "
            "train.py takes it from the data set; elsewhere give --config.model.num_classes."
        )
    if model.dtype == "float64" and not jax.config.jax_enable_x64:
        raise ValueError("config.model.dtype='float64' needs jax_enable_x64; it exists for tests.")


def _check_backbone(backbone: ConfigDict) -> None:
    """Raises ValueError for groups and deformable convolutions that the blocks do not have, or cannot."""
    key = "config.model.backbone"
    if backbone.depth not in resnet.BOTTLENECKS:
        plain_values = {
            "groups": 1,
            "width_per_group": 64,
            "deform": "none",
            "stride_in_1x1": False,
        }
        for name, plain in plain_values.items():
            if backbone[name] != plain:
                raise ValueError(
                    f"{key}.{name}={backbone[name]!r} is a setting of bottlenecks, which depth="
                    f"{backbone.depth} has none of; allowed is {plain!r}, or a depth of "
                    f"{', '.join(map(str, resnet.BOTTLENECKS))}."
                )
    groups, per_group = backbone.groups, backbone.width_per_group
    if backbone.width * per_group < 64:
        raise ValueError(
            f"{key}.width={backbone.width} with width_per_group={per_group} leaves groups without "
            "channels; their product must be at least 64."
        )
    if backbone.deform == "none":
        return
    for stage in backbone.deform_stages:
        channels = resnet.inner_width(backbone.width * 2 ** (stage - 1), groups, per_group)
        if channels % backbone.deform_groups:
            raise ValueError(
                f"{key}.deform_groups={backbone.deform_groups} does not divide the {channels} "
                f"channels of the 3x3 convolutions of stage {stage}."
            )
