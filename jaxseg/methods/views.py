"""Test-time augmentation: several views of the same images, one set of instances, with whatever method.

  every view   -> the model's scored boxes, before suppression -> mapped into the first view
  all of them  -> per-class suppression
  what is left -> mapped into every view -> its masks there, turned back -> their mean

As Detectron2's GeneralizedRCNNWithTTA, which suppresses the boxes of each view before they are merged, too. Views
differ in size and by a flip from left to right. All that is asked of a model are `propose` and a topology
(`modeling/roi_heads`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.modeling import mask_head, roi_heads
from jaxseg.ops import boxes as boxes_lib
from jaxseg.structures import Batch, Detections, ScoredBoxes, Views


def detect(model: nn.Module, views: Views) -> Detections:
    """Instances of each image in pixels of the first view: a function for `model.apply(..., method=views.detect)`."""
    heads, pyramids, candidates = model.roi_heads, [], []
    for batch, flip in zip(views.batches, views.flips, strict=True):
        pyramid, proposals = model.propose(batch)
        scored, _ = heads.candidates(pyramid, proposals)
        pyramids.append(pyramid)
        candidates.append(_moved(scored, lambda b, v=batch, f=flip: _to_first(b, views, v, f)))
    merged = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *candidates)
    found = roi_heads.suppress(merged, heads.test)
    masks = []
    for pyramid, batch, flip in zip(pyramids, views.batches, views.flips, strict=True):
        own = _moved(found, lambda b, v=batch, f=flip: _from_first(b, views, v, f))
        masks.append(_turned(heads.masks(pyramid, own), flip))
    mean = sum(masks) / len(masks)
    return Detections(found.boxes, found.scores, found.classes, found.valid, mean)


def maps_of(intermediates: Mapping[str, Any], views: Views) -> dict[str, Float[Array, "B D h w"]]:
    """The means over the views of what mask heads sowed in `detect`, turned back; see `mask_head.maps_of`."""
    every = [
        {name: _turned(x, flip) for name, x in mask_head.maps_of(intermediates, call).items()}
        for call, flip in enumerate(views.flips)
    ]
    return {name: sum(maps[name] for maps in every) / len(every) for name in every[0]}


def _moved(scored: ScoredBoxes, move: Callable[[Array], Array]) -> ScoredBoxes:
    return scored.replace(boxes=move(scored.boxes), origins=move(scored.origins))


def _to_first(boxes: Float[Array, "B C 4"], views: Views, view: Batch, flip: bool) -> Array:
    """Boxes of a view in pixels of the first one."""
    boxes = _mirrored(boxes, view.image_size) if flip else boxes
    return _scaled(boxes, view.image_size, views.image_size)


def _from_first(boxes: Float[Array, "B C 4"], views: Views, view: Batch, flip: bool) -> Array:
    """Boxes of the first view in pixels of another."""
    boxes = _scaled(boxes, views.image_size, view.image_size)
    return _mirrored(boxes, view.image_size) if flip else boxes


def _scaled(boxes, size: Float[Array, "B 2"], other: Float[Array, "B 2"]) -> Array:
    """Boxes in images of `size` (height, width), moved into the same images of size `other`; never outside of them."""
    y, x = jnp.moveaxis(other / jnp.maximum(size, 1.0), -1, 0)  # an absent image may have no size
    return boxes_lib.clip(boxes * jnp.stack([x, y, x, y], -1)[:, None], other)


def _mirrored(boxes, size: Float[Array, "B 2"]) -> Array:
    return jax.vmap(boxes_lib.hflip)(boxes, size[:, 1])


def _turned(masks: Float[Array, "B D h w"], flip: bool) -> Array:
    return masks[..., ::-1] if flip else masks
