"""The backbones that configs offer as their argument `backbone=`, each with FPN."""

from __future__ import annotations

from ml_collections import ConfigDict

# What differs from the other settings of `model.backbone`, which are those of a plain ResNet.
TABLE = {
    "r50": {"depth": 50},
    "r18": {"depth": 18},
    "r101": {"depth": 101},
    "x101_32x8d": {"depth": 101, "groups": 32, "width_per_group": 8},
    "x101_32x4d": {"depth": 101, "groups": 32, "width_per_group": 4},
    "r101_dcn": {"depth": 101, "deform": "v1"},
    "r101_dcnv2": {"depth": 101, "deform": "v2"},
}
NAMES = tuple(TABLE)  # the first is the default of `arguments.parse_arg`


def choose(config: ConfigDict, name: str) -> None:
    """Sets `config.model.backbone` to that of `name`; where it strides and its norms stay as they are."""
    config.model.backbone.update(TABLE[name])
