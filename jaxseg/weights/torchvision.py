"""torchvision's `maskrcnn_resnet50_fpn` and `_v2` and their relatives: FPN levels from 0, background first, RGB."""

from __future__ import annotations

import re

from jaxseg.weights.names import Layout, Row, has_background

COUNTERS = (r".*\.num_batches_tracked", "a counter of batches, without effect")

_BACKBONE = (
    Row("backbone/stem/conv", "conv1", "stem"),
    Row("backbone/stem/norm", "bn1", "norm"),
    Row("backbone/stage{s}/block{b}/conv{i}", "layer{s}.{b}.conv{i}", "conv"),
    Row("backbone/stage{s}/block{b}/norm{i}", "layer{s}.{b}.bn{i}", "norm"),
    Row("backbone/stage{s}/block{b}/shortcut_conv", "layer{s}.{b}.downsample.0", "conv"),
    Row("backbone/stage{s}/block{b}/shortcut_norm", "layer{s}.{b}.downsample.1", "norm"),
)
FPN = (
    Row("fpn/lateral{l}", "backbone.fpn.inner_blocks.{l-2}.0", "conv"),
    Row("fpn/lateral{l}_norm", "backbone.fpn.inner_blocks.{l-2}.1", "norm"),
    Row("fpn/output{l}", "backbone.fpn.layer_blocks.{l-2}.0", "conv"),
    Row("fpn/output{l}_norm", "backbone.fpn.layer_blocks.{l-2}.1", "norm"),
)
HEADS = (
    Row("rpn/head/conv{i}", "rpn.head.conv.{i}.0", "conv"),
    Row("rpn/head/objectness", "rpn.head.cls_logits", "conv"),
    Row("rpn/head/deltas", "rpn.head.bbox_pred", "conv"),
    Row("roi_heads/box_head/classes", "roi_heads.box_predictor.cls_score", "classes"),
    Row("roi_heads/box_head/deltas", "roi_heads.box_predictor.bbox_pred", "boxes"),
    Row("roi_heads/mask_head/conv{i}", "roi_heads.mask_head.{i}.0", "conv"),
    Row("roi_heads/mask_head/norm{i}", "roi_heads.mask_head.{i}.1", "norm"),
    Row("roi_heads/mask_head/deconv", "roi_heads.mask_predictor.conv5_mask", "deconv"),
    Row("roi_heads/mask_head/predictor", "roi_heads.mask_predictor.mask_fcn_logits", "masks"),
)
_RENAMED = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    *(
        (rf"roi_heads\.mask_head\.mask_fcn{i + 1}\.(weight|bias)", rf"roi_heads.mask_head.{i}.0.\1")
        for i in range(4)
    ),
)


def check_exportable(config) -> None:
    """Raises ValueError for models that torchvision does not have."""
    model = config.model
    for part in ("backbone", "fpn", "box_head", "mask_head"):
        if model[part].norm == "group_norm":
            raise ValueError(
                f"config.model.{part}.norm='group_norm': torchvision's Mask R-CNN has batch norms only."
            )
    for part in ("box_head", "mask_head"):
        if model[part].class_agnostic:
            raise ValueError(
                f"config.model.{part}.class_agnostic=True: torchvision's Mask R-CNN has boxes and masks of each class."
            )
    if not has_background(config):
        raise ValueError(
            f"config.model.criterion.name={model.criterion.name!r}: torchvision's Mask R-CNN has background among its "
            "classes, and this criterion has not."
        )


def layout(config) -> Layout:
    """The names of a detector."""
    return Layout(
        "torchvision",
        (
            *below("backbone.body.", backbone(config)),
            *FPN,
            *HEADS,
            *_box_head(config.model.box_head),
        ),
        ignored=(COUNTERS,),
        background_first=True,
        modern=modern,
        exported=True,
    )


def modern(name: str) -> str:
    """Today's spelling of a name, as torchvision renames it when it loads a file of before 0.13."""
    for pattern, replacement in _RENAMED:
        name = re.sub(f"^{pattern}$", replacement, name)
    return name


def backbone(config) -> tuple[Row, ...]:
    """The names of a ResNet or ResNeXt."""
    del config
    return _BACKBONE


def below(prefix: str, rows) -> tuple[Row, ...]:
    """The rows with `prefix` before their names."""
    return tuple(Row(row.ours, prefix + row.theirs, row.kind) for row in rows)


def _box_head(settings) -> tuple[Row, ...]:
    """v1 numbers its linear layers from 6; v2 counts convolutions, the flattening, and linear layers with ReLUs."""
    convs = settings.convs

    def name(fc):
        return (
            f"roi_heads.box_head.{convs + 1 + 2 * fc}"
            if convs
            else f"roi_heads.box_head.fc{6 + fc}"
        )

    return (
        Row("roi_heads/box_head/conv{i}", "roi_heads.box_head.{i}.0", "conv"),
        Row("roi_heads/box_head/norm{i}", "roi_heads.box_head.{i}.1", "norm"),
        Row("roi_heads/box_head/fc0", name(0), "linear_of_map"),
        *(Row(f"roi_heads/box_head/fc{i}", name(i), "linear") for i in range(1, settings.fcs)),
    )
