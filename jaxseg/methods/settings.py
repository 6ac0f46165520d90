"""Checks of `config.model` before anything is built: each message names the key, the value and what is allowed."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxseg.modeling import criteria, deform_conv, norms, resnet
from jaxseg.ops import matching, roi_align

PASTES = ("continuous", "torchvision")  # see evaluation.results.paste_region

Rule = tuple[Callable[[Any], bool], str]  # what holds, and in words


def one_of(*allowed: Any) -> Rule:
    return lambda v: v in allowed, ", ".join(map(str, allowed))


def number(low: float, high: float = float("inf"), *, above: bool = False) -> Rule:
    def holds(v):
        return _is_number(v) and math.isfinite(v) and (low < v if above else low <= v) and v <= high

    least = f"a number {'>' if above else '>='} {low:g}"
    return holds, least if high == float("inf") else f"{least} and <= {high:g}"


def whole(low: int) -> Rule:
    return lambda v: _is_whole(v) and v >= low, f"a whole number >= {low}"


def several(rule: Rule, count: int | None = None, *, least: int = 1) -> Rule:
    holds, words = rule
    size = {0: "any number", 1: "one or more"}[least] if count is None else str(count)

    def all_hold(v):
        if not isinstance(v, tuple | list) or len(v) < least or count not in (None, len(v)):
            return False
        return all(holds(x) for x in v)

    return all_hold, f"a tuple of {size}, each {words}"


def _is_number(v: Any) -> bool:
    return isinstance(v, numbers.Real) and not isinstance(v, bool)


def _is_whole(v: Any) -> bool:
    return isinstance(v, numbers.Integral) and not isinstance(v, bool)


SHARE = number(0.0, 1.0)
FLAG = one_of(True, False)
_CODER = several(number(0.0, above=True), 4)

RULES: Mapping[str, Rule] = {
    "dtype": one_of("float32", "bfloat16", "float64"),
    "pixel_mean": several(number(-float("inf")), 3),
    "pixel_std": several(number(0.0, above=True), 3),
    "roi_align": one_of(*roi_align.IMPLEMENTATIONS),
    "roi_sampling.ratio": whole(0),
    "roi_sampling.max_ratio": whole(1),
    "roi_sampling.aligned": FLAG,
    "roi_sampling.level_tolerance": number(0.0, 0.5),
    "ignore_padding": FLAG,
    "two_sided_clamp": FLAG,
    "backbone.name": one_of("resnet"),
    "backbone.depth": one_of(*resnet.DEPTHS),
    "backbone.width": whole(1),
    "backbone.norm": one_of(*norms.NORMS),
    "backbone.norm_epsilon": number(0.0),
    "backbone.stride_in_1x1": FLAG,
    "backbone.groups": whole(1),
    "backbone.width_per_group": whole(1),
    "backbone.deform": one_of("none", *deform_conv.VERSIONS),
    "backbone.deform_stages": several(one_of(2, 3, 4)),
    "backbone.deform_groups": whole(1),
    "fpn.channels": whole(1),
    "fpn.norm": one_of(*norms.NORMS),
    "rpn.channels": whole(1),
    "rpn.convs": whole(0),
    "rpn.anchor_sizes": several(number(0.0, above=True), len(resnet.ResNet.strides) + 1),
    "rpn.aspect_ratios": several(number(0.0, above=True)),
    "rpn.pre_nms": several(whole(1), 2),
    "rpn.post_nms": several(whole(1), 2),
    "rpn.nms_iou": SHARE,
    "rpn.min_size": number(0.0),
    "rpn.round_anchors": FLAG,
    "rpn.fitted_stride": FLAG,
    "box_head.name": one_of("fc"),
    "box_head.pool": whole(1),
    "box_head.fcs": whole(0),
    "box_head.fc_dim": whole(1),
    "box_head.convs": whole(0),
    "box_head.channels": whole(1),
    "box_head.norm": one_of(*norms.NORMS),
    "box_head.class_agnostic": FLAG,
    "mask_head.name": one_of("fcn", "atmask", "brefine"),
    "mask_head.pool": whole(1),
    "mask_head.convs": whole(0),
    "mask_head.channels": whole(1),
    "mask_head.norm": one_of(*norms.NORMS),
    "mask_head.soft_targets": FLAG,
    "mask_head.class_agnostic": FLAG,
    "criterion.name": one_of(*criteria.CRITERIA),
    "criterion.rpn.positive_iou": SHARE,
    "criterion.rpn.negative_iou": SHARE,
    "criterion.rpn.low_quality": one_of(*matching.LOW_QUALITY),
    "criterion.rpn.low_quality_iou": SHARE,
    "criterion.rpn.samples": whole(1),
    "criterion.rpn.positive_fraction": SHARE,
    "criterion.rpn.coder": _CODER,
    "criterion.rpn.smooth_l1_beta": number(0.0),
    "criterion.rpn.average": one_of("slots", "sampled"),
    "criterion.roi.positive_iou": SHARE,
    "criterion.roi.low_quality": one_of(*matching.LOW_QUALITY),
    "criterion.roi.low_quality_iou": SHARE,
    "criterion.roi.samples": whole(1),
    "criterion.roi.positive_fraction": SHARE,
    "criterion.roi.coder": _CODER,
    "criterion.roi.smooth_l1_beta": number(0.0),
    "criterion.crowd_iof": number(0.0, above=True),
    "test.score": SHARE,
    "test.nms_iou": SHARE,
    "test.max_detections": whole(1),
    "test.candidates": whole(1),
    "test.min_size": number(0.0),
    "test.mask_threshold": SHARE,
    "test.paste": one_of(*PASTES),
}


def check_used(group: str, values: ConfigDict, *cases: tuple[str, Any, bool, str]) -> None:
    """Refuses settings that would be ignored.

    Args:
      group: what `values` are called: "config.model.refine".
      cases: (key, its default, whether it has an effect, what takes the effect away), the last two as they are now.

    Raises:
      ValueError: a key without effect is not at its default.
    """
    for key, default, used, because in cases:
        if not used and values[key] != default:
            raise ValueError(
                f"{group}.{key}={values[key]!r} has no effect with {group}.{because}; leave one of them at its default."
            )


def check_unused(group: str, values: ConfigDict, defaults: Mapping[str, Any], because: str) -> None:
    """Refuses settings of a part that is not there.

    Args:
      defaults: the settings.
      because: the key and the value that leave the part out: "config.model.mask_head.name='fcn'".

    Raises:
      ValueError: one of them is not at its default.
    """
    for key, default in defaults.items():
        if values[key] != default:
            raise ValueError(
                f"{group}.{key}={values[key]!r} has no effect with {because}; leave one of them at its default."
            )


def missing(group: str, because: str) -> ValueError:
    """The error for a group of settings that `because`, a key and its value, needs."""
    return ValueError(
        f"{group} is missing, which {because} needs: the config is of another version of jaxseg."
    )


def validate(config: ConfigDict, more: Mapping[str, Rule] = MappingProxyType({})) -> None:
    """Raises ValueError for the first model setting without meaning; `more` are rules of a method's own settings."""
    model = config.model
    for key, (holds, words) in {**RULES, **more}.items():
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
