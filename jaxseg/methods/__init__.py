"""The methods by name, and what can be asked of each."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg import config_keys
from jaxseg.methods import (
    atmask_rcnn,
    brefine,
    cascade_mask_rcnn,
    mask_losses,
    mask_rcnn,
    maskplus,
    mr_rcnn,
    ranking,
    settings,
)
from jaxseg.structures import Batch

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mask_rcnn": mask_rcnn.build,
    "mr_rcnn": mr_rcnn.build,
    "cascade_mask_rcnn": cascade_mask_rcnn.build,
}
SOURCE = {"mask_head.source": settings.one_of("multi", "P2")}  # runs of earlier versions have none
RULES = {  # of the settings that only one method has
    "mr_rcnn": mr_rcnn.RULES,
    "cascade_mask_rcnn": cascade_mask_rcnn.RULES,
}


def build(config) -> nn.Module:
    """The linen module of `config.method`.

    It has `losses(batch, key, step) -> (total, log)` and `detect(batch) -> Detections`.

    Raises:
      ValueError: an unknown method or part, or a value that the model can't be built with.
    """
    if config.method not in BUILDERS:
        raise ValueError(f"method={config.method!r}: allowed are {', '.join(BUILDERS)}.")
    settings.validate(config, _rules(config))
    return BUILDERS[config.method](config)


def _rules(config) -> dict[str, settings.Rule]:
    """The method's own, and of the others those whose settings are there: runs of earlier versions lack later ones."""
    present = config_keys.keys(config.model)
    parts = (maskplus, atmask_rcnn, brefine, mask_losses, ranking)
    groups = (*RULES.values(), *(part.RULES for part in parts), SOURCE)
    others = {k: v for rules in groups for k, v in rules.items()}
    return RULES.get(config.method, {}) | {k: v for k, v in others.items() if k in present}


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
    predictors = "classes" if config.model.box_head.class_agnostic else "(classes|deltas)"
    boxes = rf"roi_heads/(refine_)?box_head(_\d+)?/{predictors}"
    parts = "|".join(("predictor", *maskplus.CLASS_PARTS, *atmask_rcnn.CLASS_PARTS))
    masks = rf"roi_heads/(refine_)?mask_head(_\d+)?/({parts})"
    return (boxes,) if config.model.mask_head.class_agnostic else (boxes, masks)


_CLASS_AXES = maskplus.CLASS_AXES | {
    r"(classes|predictor)/(kernel|bias)": {-1: 1},
    r"deltas/(kernel|bias)": {-1: 4},
}


def class_axes(path: str) -> Mapping[int, int]:
    """Of a variable of a class layer: axis, from the end -> how many entries each class has along it.

    They come first and in the order of the classes; what follows, such as the classifier's background, belongs to none.
    Empty for a variable of such a layer whose shape does not depend on the classes.
    """
    return next((axes for p, axes in _CLASS_AXES.items() if re.search(f"/{p}$", path)), {})


def copies(config) -> dict[str, str]:
    """Modules that start as copies of others where the weights that a model starts from lack them: module -> other.

    An empty string instead of the other: such a module starts from its initialiser.
    """
    more = (*maskplus.PARTS, *atmask_rcnn.PARTS, *brefine.PARTS)
    parts = {f"{head}/{part}": "" for head in _mask_heads(config) for part in more}
    return parts | (mr_rcnn.COPIES if config.method == "mr_rcnn" else {})


def dispensable(config) -> dict[str, str]:
    """Patterns of modules that weights may have and the model has not, with why they stay behind."""
    parts = {"auxiliary": "for training alone"} | brefine.replaced(config.model)
    return {rf"roi_heads/(refine_)?mask_head(_\d+)?/{part}": why for part, why in parts.items()}


def left_out(config) -> dict[str, str]:
    """Modules that such a model has unless a setting says otherwise, as it does here: module -> setting."""
    left = maskplus.left_out(config.model)
    return {f"{head}/{part}": why for head in _mask_heads(config) for part, why in left.items()}


def _mask_heads(config) -> list[str]:
    """The paths that mask heads may have."""
    heads = ["roi_heads/mask_head"]
    if config.method == "cascade_mask_rcnn":
        heads += [f"{heads[0]}_{stage}" for stage in range(len(config.model.cascade.ious))]
    return heads
