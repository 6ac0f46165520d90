"""Settings that a file's weights were trained with, as far as its layout tells: a config of others gets a note."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

_MEAN = (123.675, 116.28, 103.53)
_IMAGENET: Mapping[str, Any] = {
    "model.pixel_mean": _MEAN,
    "model.pixel_std": (58.395, 57.12, 57.375),
    "model.backbone.stride_in_1x1": False,
}
_MSRA = {
    "model.pixel_mean": _MEAN,
    "model.pixel_std": (1.0, 1.0, 1.0),
    "model.backbone.stride_in_1x1": True,
}
_TORCHVISION = {
    "model.roi_sampling.aligned": False,
    "model.roi_sampling.ratio": 2,
    "model.rpn.round_anchors": True,
}
_EPSILON = {"model.backbone.norm_epsilon": 1e-5}
_ADAPTIVE = _EPSILON | {
    "model.roi_sampling.aligned": True,
    "model.roi_sampling.ratio": 0,
    "model.rpn.round_anchors": False,
}
USUAL: Mapping[str, Mapping[str, Any]] = {
    "torchvision": _IMAGENET | _TORCHVISION,
    "torchvision_backbone": _IMAGENET | _EPSILON,
    "mmdet": _IMAGENET | _ADAPTIVE,
    "mmdet_backbone": _IMAGENET | _EPSILON,
    "detectron2": _MSRA | _ADAPTIVE,
    "detectron2_backbone": _MSRA,
    "caffe2": _MSRA | {"model.roi_sampling.aligned": False, "model.roi_sampling.ratio": 2},
    "caffe2_backbone": _MSRA,
}


def usual(layout: str, metadata: Mapping[str, Any], config: ConfigDict) -> Mapping[str, Any]:
    """Settings that files of a layout are usually for, by their keys."""
    if from_torchvision(metadata):
        return _IMAGENET
    settings = dict(USUAL[layout])
    if layout.startswith("mmdet") and is_caffe(config):
        settings |= _MSRA
    if layout == "torchvision" and config.model.fpn.norm != "none":  # v2
        settings |= _EPSILON
    if config.model.backbone.groups > 1:  # ResNeXt, of any library
        settings |= _IMAGENET
    return settings


def is_caffe(config: ConfigDict) -> bool:
    """Whether pixels are not divided by their deviation, as for Caffe's ResNets; those take BGR."""
    return bool(np.allclose(config.model.pixel_std, 1.0))


def from_torchvision(metadata: Mapping[str, Any]) -> bool:
    """Whether Detectron2 made a backbone's file out of torchvision's: its channels are RGB."""
    return metadata.get("__author__") == "torchvision"


def notes(layout: str, metadata: Mapping[str, Any], config: ConfigDict) -> list[str]:
    """A sentence about the settings that are not the usual ones, if any, and one about what no file tells."""
    found = []
    for key, wanted in usual(layout, metadata, config).items():
        value: Any = config
        for part in key.split("."):
            value = value[part]
        same = value == wanted if isinstance(wanted, bool) else np.allclose(value, wanted, atol=0)
        if not same:
            found.append(f"{key}={wanted!r} (the config has {value!r})")
    told = []
    if found:
        told.append(f"Weights of this layout are usually trained with {', '.join(found)}.")
    if layout == "torchvision" and config.model.fpn.norm == "none":
        told.append(
            "No file tells the epsilon of its norms: 0 for the weights that torchvision publishes (COCO_V1), 1e-5 for "
            f"all others. The config has model.backbone.norm_epsilon={config.model.backbone.norm_epsilon:g}."
        )
    return told


def of_pixels(state_dict: Mapping[str, np.ndarray], config: ConfigDict) -> list[str]:
    """A sentence for each normalisation of pixels in a file that is not the config's, order of the colours aside."""
    told = []
    for name, array in state_dict.items():
        kind = name.rpartition(".")[2].removeprefix("pixel_")
        if name not in (f"pixel_{kind}", f"data_preprocessor.{kind}") or kind not in (
            "mean",
            "std",
        ):
            continue
        ours = config.model[f"pixel_{kind}"]
        theirs = np.asarray(array, np.float64).ravel()
        if theirs.size != 3 or not np.allclose(np.sort(theirs), np.sort(ours), rtol=1e-3):
            told.append(
                f"The file says {name}={theirs.tolist()}, the config model.pixel_{kind}={tuple(ours)}."
            )
    return told
