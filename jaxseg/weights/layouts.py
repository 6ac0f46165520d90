"""The functions that users call: one for each family of files, and the way back to torchvision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxseg.weights import backbones, caffe2, convert, detectron2, hints, mmdet, torchvision
from jaxseg.weights.classes import Choice
from jaxseg.weights.convert import Arrays, Filled, Imported
from jaxseg.weights.names import Layout
from jaxseg.weights.recognise import check_method, recognise

BUILDERS: Mapping[str, Callable[[ConfigDict], Layout]] = {
    "torchvision": torchvision.layout,
    "torchvision_backbone": backbones.torchvision_layout,
    "detectron2": detectron2.layout,
    "detectron2_backbone": backbones.detectron2_layout,
    "caffe2": caffe2.layout,
    "caffe2_backbone": caffe2.backbone_layout,
    "mmdet": mmdet.layout,
    "mmdet_backbone": backbones.mmdet_layout,
}
FAMILIES = {
    "torchvision": ("torchvision", "torchvision_backbone"),
    "detectron2": ("detectron2", "detectron2_backbone", "caffe2", "caffe2_backbone"),
    "mmdet": ("mmdet", "mmdet_backbone"),
}


def from_torchvision(state_dict: Arrays, config: ConfigDict, **options: Any) -> Imported:
    """Variables out of torchvision's `maskrcnn_resnet50_fpn`(`_v2`) or relatives, or a ResNet of torchvision or timm.

    Args:
      state_dict: arrays by their names, of `load_file`; old spellings are understood.
      config: the whole config. It says what the model is; a file of another one is refused. With `model.num_classes`
        0, the number follows from `classes`.
      options: of `from_any`.
    """
    return from_any(state_dict, config, family="torchvision", **options)


def from_detectron2(state_dict: Arrays, config: ConfigDict, **options: Any) -> Imported:
    """Likewise from Detectron2's model zoo, its own training, or Caffe2 (Detectron): a detector or a ResNet."""
    return from_any(state_dict, config, family="detectron2", **options)


def from_mmdet(state_dict: Arrays, config: ConfigDict, **options: Any) -> Imported:
    """Likewise from MMDetection 2.x or 3.x; files of 1.x are refused."""
    return from_any(state_dict, config, family="mmdet", **options)


def from_any(
    state_dict: Arrays,
    config: ConfigDict,
    *,
    family: str | None = None,
    classes: Choice = "all",
    channels: str = "auto",
    ignore: Sequence[str] = (),
    initial: Mapping[str, Any] | None = None,
) -> Imported:
    """Variables out of a file of whatever layout.

    Args:
      family: torchvision, detectron2 or mmdet: others are refused. None: whatever is recognised.
      classes: which of the file's classes the class layers are to have, in this order: "all"; "coco80", the 80 of
        torchvision's 90 labels that COCO uses; "none", initial values for other classes; or numbers of the file's
        classes, from 0 and without background.
      channels: order of the stem's input channels in the file, "rgb" or "bgr"; "auto": bgr for Detectron2 and Caffe2,
        and for MMDetection's caffe styles (a config whose pixels are not divided by their deviation).
      ignore: regular expressions for names of arrays that are not wanted.
      initial: values by our paths (`params/rpn/head/conv0/kernel`) for what the file does not have; default: those that
        training would start from (a compilation of some seconds, only where they are needed).

    Raises:
      ValueError: the file is of another family or none; arrays are missing, superfluous or of another shape; or the
        classes do not fit. Nothing is compiled before.
    """
    filled = fill(
        state_dict, config, family=family, classes=classes, channels=channels, ignore=ignore
    )
    if initial is None:
        initial = convert.initial_values(filled.config, tuple(filled.report.initial))
    return filled.complete(initial)


def layout_of(state_dict: Arrays, config: ConfigDict) -> Layout:
    """The layout of a file for the model of `config`.

    Raises:
      ValueError: no known layout, or a cascade's where the config has none, or the other way round.
    """
    name = recognise(state_dict)
    check_method(state_dict, name, config)
    return BUILDERS[name](config)


def fill(
    state_dict: Arrays,
    config: ConfigDict,
    *,
    family: str | None = None,
    classes: Choice = "all",
    channels: str = "auto",
    ignore: Sequence[str] = (),
    like: Mapping[str, tuple[int, ...]] | None = None,
) -> Filled:
    """What a file has, in our form and not yet completed by initial values. Arguments and errors as `from_any`.

    Args:
      like: the shapes of our variables by their paths, where they are known already.
    """
    name = recognise(state_dict)
    if family is not None and name not in FAMILIES[family]:
        right = next(f for f, members in FAMILIES.items() if name in members)
        raise ValueError(f"These are names of {name}'s layout, not {family}'s: use from_{right}.")
    if name.startswith("caffe2"):
        caffe2.check_norms(state_dict, config)
    metadata = getattr(state_dict, "metadata", {})
    layout = layout_of(state_dict, config)
    if channels not in ("auto", "rgb", "bgr"):
        raise ValueError(f"channels={channels!r}: allowed are auto, rgb and bgr.")
    if channels == "auto":
        channels = _usual_channels(layout, metadata, config)
    return convert.fill(
        {n: np.asarray(a) for n, a in state_dict.items()},
        layout,
        config,
        classes=classes,
        channels=channels,
        ignore=ignore,
        notes=[*hints.notes(name, metadata, config), *hints.of_pixels(state_dict, config)],
        like=like,
    )


def _usual_channels(layout: Layout, metadata: Mapping[str, Any], config: ConfigDict) -> str:
    if hints.from_torchvision(metadata):
        return "rgb"
    if layout.name.startswith("mmdet") and hints.is_caffe(config):
        return "bgr"
    return layout.channels


def to_torchvision(
    params: Any, batch_stats: Any, config: ConfigDict, *, rest: Arrays | None = None
) -> dict[str, np.ndarray]:
    """Our variables under torchvision's names: what `load_state_dict` of its model takes, as NumPy arrays.

    torchvision has rows of boxes and masks for background, which nothing reads and we do not have. They are 0, unless
    `rest` of an `Imported` puts those of its file back: then to_torchvision(from_torchvision(file)) is the file.

    Raises:
      ValueError: a model that torchvision does not have, or a `rest` of another one.
    """
    torchvision.check_exportable(config)
    return convert.export_layout(params, batch_stats, torchvision.layout(config), config, rest=rest)
