"""The methods by name, and what can be asked of each."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.methods import mask_rcnn, settings
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
    settings.validate(config)
    return BUILDERS[config.method](config)


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
