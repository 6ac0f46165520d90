"""Which framework's file this is, from the names of its arrays."""

from __future__ import annotations

import re
from collections.abc import Iterable

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
        f"No known layout: the arrays are {some}{', ...' if len(names) > 5 else ''}. Known are Mask R-CNNs of "
        "torchvision, Detectron2, Caffe2 (Detectron) and MMDetection, and ResNets of torchvision, timm, MSRA and "
        "Detectron2."
    )


def strip_prefix(name: str) -> str:
    """Without what DataParallel, torch.compile and Lightning modules put before every name."""
    return re.sub(r"^(?:(?:module|_orig_mod|model)\.)+", "", name)
