"""The models that step and inference benchmarks compare, and the flags that say on what."""

from __future__ import annotations

import ast
from collections.abc import Callable

from absl import flags
from ml_collections import ConfigDict

from benchmarks import options
from configs import (
    atmask_rcnn,
    backbones,
    brefine,
    cascade_mask_rcnn,
    mask_rcnn,
    maskplus,
    mr_rcnn,
)
from jaxseg import config_keys

METHODS: dict[str, Callable[[str], ConfigDict]] = {
    "mask_rcnn": mask_rcnn.get_config,
    "cascade_mask_rcnn": cascade_mask_rcnn.get_config,
    "atmask_rcnn": atmask_rcnn.get_config,
    "maskplus": maskplus.get_config,
    "mr_rcnn": mr_rcnn.get_config,
    "brefine": brefine.get_config,
}
BASELINE = "mask_rcnn"
PEER = "torchvision"
COMPILED_PEER = "torchvision, compiled"
PEER_BACKBONES = {"r50": "resnet50", "r101": "resnet101", "r18": "resnet18"}


def define_flags(*, size: tuple[int, int], batch_size: int, peer: bool = True) -> None:
    """The flags, with what is made for a CPU as defaults."""
    flags.DEFINE_list("methods", [BASELINE], "What to measure: " + ", ".join(METHODS) + ".")
    flags.DEFINE_enum("backbone", "r50", backbones.NAMES, "The backbone.")
    flags.DEFINE_list("size", [str(n) for n in size], "Height and width in pixels.")
    flags.DEFINE_integer("batch_size", batch_size, "Images a call.", lower_bound=1)
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Compute dtype.")
    flags.DEFINE_integer("repeats", 5, "Timings of each.", lower_bound=1)
    flags.DEFINE_float("least_seconds", 1.0, "Of a timing.", lower_bound=0)
    if peer:
        flags.DEFINE_bool("peer", True, "Also torchvision, where it is installed.")
        flags.DEFINE_bool("compiled_peer", None, "Also torch.compile's; default: on a GPU.")
    flags.DEFINE_list("set", [], "KEY=VALUE of the config, for every method: values are Python's.")
    flags.DEFINE_integer("seed", 0, "Of the random images and weights.")
    flags.DEFINE_string("json", None, "Also write the result to this file.")
    flags.DEFINE_float("stall_seconds", 900, "Kill a step that takes longer.", lower_bound=1)
    flags.DEFINE_string("journal", None, "Do the work, and note it in this file.")
    options.only_of("methods", METHODS)
    options.writable("json")
    options.canvas("size")
    flags.register_validator(
        "set", lambda v: all("=" in x for x in v), message="give KEY=VALUE, e.g. data.max_crowds=1"
    )
    flags.register_multi_flags_validator(
        ["set", "methods", "backbone"],
        lambda v: (
            not v["set"]
            or all(
                {item.partition("=")[0] for item in v["set"]}
                <= set(config_keys.keys(METHODS[method](v["backbone"])))
                for method in v["methods"]
            )
        ),
        message="--set: a KEY is not in the config of each of --methods",
    )


def flag_values() -> dict[str, object]:
    """What was measured, as it is written beside the numbers."""
    names = ("methods", "backbone", "size", "batch_size", "dtype", "repeats", "seed", "set")
    return {name: flags.FLAGS[name].value for name in names}


def changes() -> dict[str, object]:
    """Those of `--set`, for `detector.prepared`."""
    pairs = dict(item.split("=", 1) for item in flags.FLAGS.set)
    return {key.replace(".", "__"): _value(text) for key, text in pairs.items()}


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def image_size() -> tuple[int, int]:
    height, width = map(int, flags.FLAGS.size)
    return height, width
