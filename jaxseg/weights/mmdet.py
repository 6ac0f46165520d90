"""MMDetection 2.x and 3.x: torchvision's backbone, FPN levels from 0, background last, RGB."""

from __future__ import annotations

import re

from jaxseg.weights import torchvision
from jaxseg.weights.names import Layout, Row, staged

IGNORED = (
    torchvision.COUNTERS,
    (r"ema_.*", "a copy that MMDetection's averaging keeps"),
    (r"data_preprocessor\..*", "the pixels' mean and deviation come from the config"),
)
HEADS = (
    Row("rpn/head/objectness", "rpn_head.rpn_cls", "conv"),
    Row("rpn/head/deltas", "rpn_head.rpn_reg", "conv"),
    Row("roi_heads/box_head/conv{i}", "roi_head.bbox_head.shared_convs.{i}.conv", "conv"),
    Row("roi_heads/box_head/fc0", "roi_head.bbox_head.shared_fcs.0", "linear_of_map"),
    Row("roi_heads/box_head/fc{i}", "roi_head.bbox_head.shared_fcs.{i}", "linear"),
    Row("roi_heads/box_head/classes", "roi_head.bbox_head.fc_cls", "classes"),
    Row("roi_heads/box_head/deltas", "roi_head.bbox_head.fc_reg", "boxes"),
    Row("roi_heads/mask_head/conv{i}", "roi_head.mask_head.convs.{i}.conv", "conv"),
    Row("roi_heads/mask_head/deconv", "roi_head.mask_head.upsample", "deconv"),
    Row("roi_heads/mask_head/predictor", "roi_head.mask_head.conv_logits", "masks"),
    Row("fpn/lateral{l}", "neck.lateral_convs.{l-2}.conv", "conv"),
    Row("fpn/output{l}", "neck.fpn_convs.{l-2}.conv", "conv"),
)


def layout(config) -> Layout:
    """The names of a detector."""
    model = config.model
    box, mask, fpn = (_kind(group.norm) for group in (model.box_head, model.mask_head, model.fpn))
    rpn_conv = "rpn_head.rpn_conv.{i}.conv" if model.rpn.convs > 1 else "rpn_head.rpn_conv"
    heads = (
        *HEADS,
        Row("roi_heads/box_head/norm{i}", f"roi_head.bbox_head.shared_convs.{{i}}.{box}", "norm"),
        Row("roi_heads/mask_head/norm{i}", f"roi_head.mask_head.convs.{{i}}.{mask}", "norm"),
    )
    rows = (
        *torchvision.below("backbone.", backbone(config)),
        *staged(heads, config),
        Row(
            "backbone/stage{s}/block{b}/conv{i}/offset",
            "backbone.layer{s}.{b}.conv{i}.conv_offset",
            "conv",
        ),
        Row("rpn/head/conv{i}", rpn_conv, "conv"),
        Row("fpn/lateral{l}_norm", f"neck.lateral_convs.{{l-2}}.{fpn}", "norm"),
        Row("fpn/output{l}_norm", f"neck.fpn_convs.{{l-2}}.{fpn}", "norm"),
    )
    return Layout("mmdet", rows, ignored=IGNORED, modern=modern)


def modern(name: str) -> str:
    """Today's spelling; deformable convolutions had another one in early versions of mmcv."""
    return re.sub(r"(\.conv\d)_offset\.", r"\1.conv_offset.", name)


def backbone(config) -> tuple[Row, ...]:
    """torchvision's names, with `gn` for group norms."""
    kind = _kind(config.model.backbone.norm)
    return tuple(
        Row(row.ours, row.theirs.replace("bn", kind), row.kind)
        for row in torchvision.backbone(config)
    )


def _kind(norm: str) -> str:
    return "gn" if norm == "group_norm" else "bn"
