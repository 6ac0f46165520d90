"""Files with a backbone only: ResNets as they are trained for classification. All other parts keep initial values."""

from __future__ import annotations

from jaxseg.weights import detectron2, mmdet, torchvision
from jaxseg.weights.names import Layout


def torchvision_layout(config) -> Layout:
    """torchvision's and timm's ResNet and ResNeXt."""
    return Layout(
        "torchvision_backbone",
        torchvision.backbone(config),
        ignored=(torchvision.COUNTERS, (r"fc\..*", detectron2.CLASSIFIER)),
        of_backbone=True,
    )


def detectron2_layout(config) -> Layout:
    """Detectron2's ResNet; `caffe2` has those of Caffe2's names."""
    return Layout(
        "detectron2_backbone",
        detectron2.backbone(config),
        ignored=(
            torchvision.COUNTERS,
            (r"(stem\.fc|fc|linear|fc1000|pred)\..*", detectron2.CLASSIFIER),
        ),
        channels="bgr",
        of_backbone=True,
        folded=True,
    )


def mmdet_layout(config) -> Layout:
    """A classification model of the same family, with its backbone's names."""
    return Layout(
        "mmdet_backbone",
        torchvision.below("backbone.", mmdet.backbone(config)),
        ignored=(torchvision.COUNTERS, (r"(head|backbone\.fc)\..*", detectron2.CLASSIFIER)),
        of_backbone=True,
    )
