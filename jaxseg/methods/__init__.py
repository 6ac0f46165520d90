"""The methods by name, and what can be asked of each."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

import pallas_kernels
from jaxseg.methods import mask_rcnn
from jaxseg.structures import Batch

BUILDERS: dict[str, Callable[..., nn.Module]] = {"mask_rcnn": mask_rcnn.build}


def build(config) -> nn.Module:
    """The linen module of `config.method`.

    It has `losses(batch, key, step) -> (total, log)` and `detect(batch) -> Detections`.

    Raises:
      ValueError: an unknown method or part, or a value that the model can't be built with.
    """
    if config.method not in BUILDERS:
        raise ValueError(f"method={config.method!r}: allowed are {', '.join(BUILDERS)}.")
    validate(config)
    return BUILDERS[config.method](config)


def validate(config) -> None:
    """Raises ValueError for model settings without meaning, naming the key, the value and what is allowed."""
    model = config.model
    one_of = {
        "model.backbone.name": (model.backbone.name, ("resnet",)),
        "model.backbone.depth": (model.backbone.depth, tuple(mask_rcnn.resnet.DEPTHS)),
        "model.box_head.name": (model.box_head.name, ("fc",)),
        "model.mask_head.name": (model.mask_head.name, ("fcn",)),
        "model.topology.name": (model.topology.name, ("single",)),
        "model.criterion.name": (model.criterion.name, ("softmax",)),
        "model.dtype": (model.dtype, ("float32", "bfloat16", "float64")),
        "model.roi_align": (model.roi_align, tuple(pallas_kernels.IMPLEMENTATIONS)),
    }
    for key, (value, allowed) in one_of.items():
        if value not in allowed:
            raise ValueError(f"{key}={value!r}: allowed are {', '.join(map(str, allowed))}.")
    levels = len(mask_rcnn.resnet.ResNet.strides) + 1
    if len(model.rpn.anchor_sizes) != levels:
        raise ValueError(
            f"model.rpn.anchor_sizes has {len(model.rpn.anchor_sizes)} entries: allowed are "
            f"{levels}, one a level (P2..P6)."
        )
    if model.num_classes < 1:
        raise ValueError(
            "model.num_classes is 0: train.py takes it from the data set; elsewhere give "
            "--config.model.num_classes."
        )
    if model.dtype == "float64" and not jax.config.jax_enable_x64:
        raise ValueError("model.dtype='float64' needs jax_enable_x64; it exists for tests.")


def count_parameters(config) -> int:
    """Parameters that the model uses at test time, without the constants of frozen batch norms."""
    model = build(config)
    batch = Batch(
        jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.full((1, 2), 64.0), jnp.ones((1,), bool)
    )
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), batch, method="detect"))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def class_layers(config) -> tuple[str, ...]:
    """Patterns (see `jaxseg.paths`) of the parameters whose shape depends on the number of classes."""
    boxes = (
        "roi_heads/box_head/classes"
        if config.model.box_head.class_agnostic
        else ("roi_heads/box_head/(classes|deltas)")
    )
    masks = () if config.model.mask_head.class_agnostic else ("roi_heads/mask_head/predictor",)
    return (boxes, *masks)
