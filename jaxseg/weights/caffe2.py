"""Caffe2's blobs (Detectron, MSRA's ResNets): Detectron2's model under older names, background first, norms folded.

Folded norms are scale and bias only. Background's rows of boxes and masks are there, as in torchvision's files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ml_collections import ConfigDict

from jaxseg.weights import detectron2
from jaxseg.weights.names import Layout

IGNORED = (
    (r".*_momentum", "the optimizer's state"),
    (r"lr|model_iter|weight_order|cfg", "about the training"),
    (
        r"(backbone\.bottom_up\.)?stem\.conv1\.bias",
        "a bias before a norm, which Detectron2 drops too",
    ),
    (r"(linear|fc1000)\.(weight|bias)", detectron2.CLASSIFIER),
)
_BLOCKS = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
_LEAVES = {
    **{"_w": "weight", "_b": "bias", "_s": "weight", "_gamma": "weight", "_beta": "bias"},
    **{"_rm": "running_mean", "_running_mean": "running_mean"},
    **{"_riv": "running_var", "_running_var": "running_var"},
}
_HEADS = (
    (r"conv_rpn_fpn2", "proposal_generator.rpn_head.conv"),
    (r"rpn_cls_logits_fpn2", "proposal_generator.rpn_head.objectness_logits"),
    (r"rpn_bbox_pred_fpn2", "proposal_generator.rpn_head.anchor_deltas"),
    (r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?", r"backbone.fpn_lateral\1"),
    (r"fpn_res(\d)_\d+_sum", r"backbone.fpn_output\1"),
    (r"fc6", "roi_heads.box_head.fc1"),
    (r"fc7", "roi_heads.box_head.fc2"),
    (r"head_conv(\d)", r"roi_heads.box_head.conv\1"),
    (r"cls_score", "roi_heads.box_predictor.cls_score"),
    (r"bbox_pred", "roi_heads.box_predictor.bbox_pred"),
    (r"_\[mask\]_fcn(\d)", r"roi_heads.mask_head.mask_fcn\1"),
    (r"conv5_mask", "roi_heads.mask_head.deconv"),
    (r"mask_fcn_logits", "roi_heads.mask_head.predictor"),
    (r"pred", "linear"),
    (r"fc1000", "fc1000"),
)


def layout(config: ConfigDict) -> Layout:
    """A detector of Detectron's."""
    return Layout(
        "caffe2",
        detectron2.layout(config).rows,
        ignored=IGNORED,
        background_first=True,
        channels="bgr",
        modern=lambda blob: modern(blob, "backbone.bottom_up."),
        folded=True,
    )


def backbone_layout(config: ConfigDict) -> Layout:
    """A ResNet or ResNeXt for classification: MSRA's R-50 and R-101, FAIR's X-101-32x8d."""
    return Layout(
        "caffe2_backbone",
        detectron2.backbone(config),
        ignored=IGNORED,
        channels="bgr",
        modern=modern,
        of_backbone=True,
        folded=True,
    )


def modern(blob: str, prefix: str = "") -> str:
    """Detectron2's name of a blob, `prefix` being that of its backbone; others stay as they are."""
    leaf = next((end for end in sorted(_LEAVES, key=len, reverse=True) if blob.endswith(end)), None)
    if leaf is None or blob.endswith("_momentum"):
        return blob
    stem, last = blob.removesuffix(leaf), _LEAVES[leaf]
    norm = re.search(r"_[bg]n$", stem)
    if norm:
        stem, last = stem[: norm.start()], f"norm.{last}"
    if stem in ("conv1", "res_conv1"):
        return f"{prefix}stem.conv1.{last}"
    block = re.fullmatch(r"res(\d)_(\d+)_(branch\w+)", stem)
    if block and block[3] in _BLOCKS:
        return f"{prefix}res{block[1]}.{block[2]}.{_BLOCKS[block[3]]}.{last}"
    for pattern, name in _HEADS:
        if found := re.fullmatch(pattern, stem):
            return f"{found.expand(name)}.{last}"
    return blob


def check_norms(blobs: Iterable[str], config: ConfigDict) -> None:
    """Group norms and folded batch norms have the same two vectors; only the blobs' names tell them apart.

    Raises:
      ValueError: the file's norms are not the config's.
    """
    groups = any(blob.endswith("_gn_s") for blob in blobs)
    norm = config.model.backbone.norm
    if groups != (norm == "group_norm"):
        kind, wanted = ("group", "group_norm") if groups else ("folded batch", "frozen_bn")
        raise ValueError(
            f"The file has {kind} norms, and the config has model.backbone.norm={norm!r}: set it to {wanted!r}."
        )
