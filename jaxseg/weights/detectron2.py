"""Detectron2's detectors: FPN levels from 2, background last, no rows of it for boxes and masks, BGR."""

from __future__ import annotations

from jaxseg.weights.names import Layout, Row, staged
from jaxseg.weights.torchvision import COUNTERS, below

CLASSIFIER = "ImageNet's classifier"
IGNORED = (
    COUNTERS,
    (r"proposal_generator\.anchor_generator\..*", "anchors follow from the config"),
    (r"pixel_(mean|std)", "the pixels' mean and deviation come from the config"),
)
FPN = (
    Row("fpn/lateral{l}", "backbone.fpn_lateral{l}", "conv"),
    Row("fpn/lateral{l}_norm", "backbone.fpn_lateral{l}.norm", "norm"),
    Row("fpn/output{l}", "backbone.fpn_output{l}", "conv"),
    Row("fpn/output{l}_norm", "backbone.fpn_output{l}.norm", "norm"),
)
# Deformable convolutions are in detectors only.
OFFSET = Row(
    "backbone/stage{s}/block{b}/conv{i}/offset",
    "backbone.bottom_up.res{s+1}.{b}.conv{i}_offset",
    "conv",
)
HEADS = (
    Row("rpn/head/objectness", "proposal_generator.rpn_head.objectness_logits", "conv"),
    Row("rpn/head/deltas", "proposal_generator.rpn_head.anchor_deltas", "conv"),
    Row("roi_heads/box_head/conv{i}", "roi_heads.box_head.conv{i+1}", "conv"),
    Row("roi_heads/box_head/norm{i}", "roi_heads.box_head.conv{i+1}.norm", "norm"),
    Row("roi_heads/box_head/fc0", "roi_heads.box_head.fc1", "linear_of_map"),
    Row("roi_heads/box_head/fc{i}", "roi_heads.box_head.fc{i+1}", "linear"),
    Row("roi_heads/box_head/classes", "roi_heads.box_predictor.cls_score", "classes"),
    Row("roi_heads/box_head/deltas", "roi_heads.box_predictor.bbox_pred", "boxes"),
    Row("roi_heads/mask_head/conv{i}", "roi_heads.mask_head.mask_fcn{i+1}", "conv"),
    Row("roi_heads/mask_head/norm{i}", "roi_heads.mask_head.mask_fcn{i+1}.norm", "norm"),
    Row("roi_heads/mask_head/deconv", "roi_heads.mask_head.deconv", "deconv"),
    Row("roi_heads/mask_head/predictor", "roi_heads.mask_head.predictor", "masks"),
)


def layout(config) -> Layout:
    """The names of a detector."""
    rpn_conv = "conv.conv{i}" if config.model.rpn.convs > 1 else "conv"
    rows = (
        *below("backbone.bottom_up.", backbone(config)),
        *FPN,
        *staged(HEADS, config),
        OFFSET,
        Row("rpn/head/conv{i}", f"proposal_generator.rpn_head.{rpn_conv}", "conv"),
    )
    return Layout("detectron2", rows, ignored=IGNORED, channels="bgr")


def backbone(config) -> tuple[Row, ...]:
    """The names of a ResNet."""
    del config
    return (
        Row("backbone/stem/conv", "stem.conv1", "stem"),
        Row("backbone/stem/norm", "stem.conv1.norm", "norm"),
        Row("backbone/stage{s}/block{b}/conv{i}", "res{s+1}.{b}.conv{i}", "conv"),
        Row("backbone/stage{s}/block{b}/norm{i}", "res{s+1}.{b}.conv{i}.norm", "norm"),
        Row("backbone/stage{s}/block{b}/shortcut_conv", "res{s+1}.{b}.shortcut", "conv"),
        Row("backbone/stage{s}/block{b}/shortcut_norm", "res{s+1}.{b}.shortcut.norm", "norm"),
    )
