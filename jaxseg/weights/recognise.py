"""Which framework's file this is, and of which method, from the names of its arrays."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ml_collections import ConfigDict

from jaxseg.weights import names as names_lib

SIGNS = (  # layout, a part of a name that only its files have, where the name begins
    ("torchvision", ("backbone.body.",)),
    ("detectron2", ("backbone.bottom_up.", "proposal_generator.")),
    ("mmdet", ("neck.lateral_convs.", "roi_head.", "rpn_head.")),
    ("mmdet_backbone", ("backbone.layer1.",)),
    ("torchvision_backbone", ("layer1.0.",)),
    ("detectron2_backbone", ("stem.conv1.", "res2.0.")),
    ("caffe2", ("conv_rpn_fpn", "fpn_inner_", "rpn_cls_logits")),
    ("caffe2_backbone", ("res2_0_branch2a_w",)),
)
LAYOUTS = tuple(name for name, _ in SIGNS)
HEADS = {  # numbered box heads and mask heads, of cascades
    "detectron2": (r"roi_heads\.box_predictor\.(\d+)\.", r"roi_heads\.mask_head\.(?:(\d+)\.)?"),
    "mmdet": (r"roi_head\.bbox_head\.(\d+)\.", r"roi_head\.mask_head\.(?:(\d+)\.)?"),
}
OLD_MMDET = ("bbox_head.fc_cls.", "bbox_head.0.fc_cls.", "mask_head.conv_logits.")


def recognise(state_dict: Iterable[str]) -> str:
    """The layout of a file with these names, one of `LAYOUTS`.

    `_backbone`: nothing but a ResNet, as for classification.

    Raises:
      ValueError: of MMDetection 1.x, or none of these.
    """
    names = [strip_prefix(name) for name in state_dict]

    def has(starts):
        return any(name.startswith(starts) for name in names)

    if has(OLD_MMDET):
        raise ValueError(
            "This is a file of MMDetection 1.x, where background is the first class and boxes are decoded otherwise. "
            "Convert it with MMDetection 2's tools/model_converters/upgrade_model_version.py."
        )
    for layout, starts in SIGNS:
        if has(starts):
            return layout
    some = ", ".join(names[:5]) or "nothing"
    raise ValueError(
        f"No known layout: the arrays are {some}{', ...' if len(names) > 5 else ''}. Known are Mask and Faster R-CNNs "
        "of torchvision, Detectron2, Caffe2 (Detectron) and MMDetection, and ResNets of torchvision, timm, MSRA and "
        "Detectron2."
    )


def check_method(state_dict: Iterable[str], layout: str, config: ConfigDict) -> None:
    """Raises ValueError if one of file and config has a cascade of heads, and the other none or another one."""
    if layout.endswith("_backbone"):
        return
    theirs, ours = _head_counts(state_dict, layout), names_lib.head_counts(config)
    family = "detectron2" if layout == "caffe2" else layout
    if theirs[0] and not ours[0]:
        raise ValueError(
            f"This file ({layout}'s layout) is of a cascade: {_words(*theirs)}. The config is of "
            f"method={config.method!r}, which has one box head: use configs/cascade_mask_rcnn.py:{family}."
        )
    if ours[0] and not theirs[0]:
        raise ValueError(
            f"This file ({layout}'s layout) is of a detector with one box head, and the config is of "
            f"method={config.method!r} with {ours[0]}. For this file use configs/mask_rcnn.py:{family}; a cascade "
            "starts from the weights of a backbone, or from a cascade's."
        )
    if ours[0] != theirs[0] or theirs[1] not in (None, ours[1]):
        raise ValueError(
            f"This file ({layout}'s layout) has {_words(*theirs)}, and the config {_words(*ours)}: see "
            "config.model.cascade, whose `ious`, `coders` and `loss_weights` have one entry for each box head, and "
            "`mask_heads`."
        )


def _head_counts(state_dict: Iterable[str], layout: str) -> tuple[int, int | None]:
    """As `names.head_counts`, of a file; None if it has no mask head at all."""
    if layout not in HEADS:
        return 0, 0
    found = []
    for pattern in HEADS[layout]:
        matches = [re.match(pattern, strip_prefix(name)) for name in state_dict]
        found.append({m[1] for m in matches if m})
    boxes, masks = found
    return len(boxes), len(masks - {None}) if masks else None


def _words(boxes: int, masks: int | None) -> str:
    heads = {None: "no mask head", 0: "1 mask head"}
    return f"{boxes} box heads and {heads.get(masks, f'{masks} mask heads')}"


def strip_prefix(name: str) -> str:
    """Without what DataParallel, torch.compile and Lightning modules put before every name."""
    return re.sub(r"^(?:(?:module|_orig_mod|model)\.)+", "", name)
