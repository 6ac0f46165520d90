"""Region proposal network (Ren et al. 2015) over a pyramid: head, anchors, and proposals of static number."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxseg import precision
from jaxseg.modeling import layers
from jaxseg.ops import anchors as anchors_lib
from jaxseg.ops import boxes as boxes_lib
from jaxseg.ops import nms as nms_lib
from jaxseg.ops import shards
from jaxseg.structures import Pyramid, RoIs


class RPNHead(nn.Module):
    """3x3 convolutions, then 1x1 to objectness and to box deltas; shared by all levels."""

    anchors_per_cell: int
    num_logits: int = 1
    channels: int = 256
    convs: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, levels: Sequence[Float[Array, "B _ _ _"]]
    ) -> tuple[list[Float[Array, "B _"]], list[Float[Array, "B _ 4"]]]:
        """Logits and deltas a level, float32, in the order of `ops.anchors` (rows, columns, anchors of a cell)."""
        init = layers.normal(0.01)
        trunk = [
            layers.Conv(self.channels, 3, kernel_init=init, dtype=self.dtype, name=f"conv{i}")
            for i in range(self.convs)
        ]
        per_cell = self.anchors_per_cell
        objectness = layers.Conv(per_cell, 1, kernel_init=init, dtype=self.dtype, name="objectness")
        deltas = layers.Conv(per_cell * 4, 1, kernel_init=init, dtype=self.dtype, name="deltas")
        all_logits, all_deltas = [], []
        for x in levels:
            for layer in trunk:
                x = nn.relu(layer(x))
            all_logits.append(precision.at_least_float32(objectness(x).reshape(x.shape[0], -1)))
            all_deltas.append(precision.at_least_float32(deltas(x).reshape(x.shape[0], -1, 4)))
        return all_logits, all_deltas


class RPN(nn.Module):
    """Head, anchors and proposals.

    Attributes:
      head: maps levels to logits and deltas.
      anchor_sizes: side in pixels of a level's anchors, one a level.
      aspect_ratios: height / width.
      coder: box coder weights (see ops.boxes.encode); the criterion's.
      pre_nms, post_nms: (training, test): candidates a level before, proposals an image after suppression.
      nms_iou: a proposal that overlaps a better one of its level by more is dropped.
      min_size: proposals with a side not longer than this are dropped, in pixels.
      round_anchors: see ops.anchors.base.
      fitted_stride: anchors lie canvas // cells pixels apart, as torchvision has it, instead of the level's stride.
        The two differ on P6 where the canvas is no multiple of 64.
      two_sided_clamp: see ops.boxes.decode, `clip_lower`.
      ignore_padding: anchors centred on padding propose nothing, and are no candidates of the loss.
    """

    head: RPNHead
    anchor_sizes: Sequence[float]
    aspect_ratios: Sequence[float]
    coder: Sequence[float]
    pre_nms: tuple[int, int] = (2000, 1000)
    post_nms: tuple[int, int] = (1000, 1000)
    nms_iou: float = 0.7
    min_size: float = 0.0
    round_anchors: bool = False
    fitted_stride: bool = False
    two_sided_clamp: bool = False
    ignore_padding: bool = True

    def __call__(
        self, pyramid: Pyramid
    ) -> tuple[list[Float[Array, "B _"]], list[Float[Array, "B _ 4"]]]:
        return self.head(pyramid.levels)

    def anchors(self, pyramid: Pyramid) -> list[np.ndarray]:
        """One (A, 4) array a level, float32, xyxy in input pixels."""
        if len(pyramid.levels) != len(self.anchor_sizes):
            raise ValueError(
                f"rpn.anchor_sizes has {len(self.anchor_sizes)} entries; the pyramid has "
                f"{len(pyramid.levels)} levels (strides {pyramid.strides}): give one size a level."
            )
        canvas = [cells * pyramid.strides[0] for cells in pyramid.levels[0].shape[1:3]]

        def anchors(cells, stride, size):
            if self.fitted_stride:
                stride = tuple(pixels // n for pixels, n in zip(canvas, cells, strict=True))
            return anchors_lib.level_anchors(
                cells, stride, (size,), self.aspect_ratios, rounded=self.round_anchors
            )

        return [
            anchors(level.shape[1:3], stride, size)
            for level, stride, size in zip(
                pyramid.levels, pyramid.strides, self.anchor_sizes, strict=True
            )
        ]

    def candidates(
        self, anchors: Float[np.ndarray, "A 4"], image_size: Float[Array, "B 2"]
    ) -> Bool[Array, "B A"]:
        """Which anchors may propose and enter the loss: those centred on the image, or all of a valid batch entry."""
        if self.ignore_padding:
            return centred_inside(anchors, image_size)
        exists = (image_size > 0).all(-1)
        return jnp.broadcast_to(exists[:, None], (image_size.shape[0], anchors.shape[0]))

    def propose(
        self,
        logits: Sequence[Float[Array, "B _"]],
        deltas: Sequence[Float[Array, "B _ 4"]],
        pyramid: Pyramid,
        *,
        train: bool,
    ) -> RoIs:
        """The best boxes of each image: top-k a level, decode, clip, suppress within the level, top-k of all.

        Returns `post_nms` boxes an image without gradient, best first.
        """
        pre, post = (n[0 if train else 1] for n in (self.pre_nms, self.post_nms))
        choose = functools.partial(self._choose, self.anchors(pyramid), pre, post)
        logits, deltas = jax.lax.stop_gradient((tuple(logits), tuple(deltas)))
        return shards.per_shard(choose)(logits, deltas, pyramid.image_size)

    def _choose(self, anchors, pre: int, post: int, logits, deltas, image_size) -> RoIs:
        pre = min(pre, max(level.shape[1] for level in logits))
        picked = [
            self._level_candidates(*level, image_size, pre)
            for level in zip(logits, deltas, anchors, strict=True)
        ]
        boxes, scores, ok = (jnp.stack(part, 1) for part in zip(*picked, strict=True))  # B L pre

        def suppress(boxes, ok):
            return nms_lib.nms_sorted(boxes, ok, iou_threshold=self.nms_iou, max_out=min(pre, post))

        index, kept = jax.vmap(jax.vmap(suppress))(boxes, ok)
        batch = boxes.shape[0]
        boxes = jnp.take_along_axis(boxes, index[..., None], 2).reshape(batch, -1, 4)
        scores = jnp.where(kept, jnp.take_along_axis(scores, index, 2), -jnp.inf).reshape(batch, -1)
        scores, order = jax.lax.top_k(scores, min(post, scores.shape[1]))
        chosen = jnp.isfinite(scores)
        return RoIs(jnp.take_along_axis(boxes, order[..., None], 1), chosen, chosen)

    def _level_candidates(self, logits, deltas, anchors, image_size, number: int):
        """Boxes (B, number, 4), scores and validity (B, number) of a level's best anchors, best first, padded."""
        count = min(number, logits.shape[1])
        may = self.candidates(anchors, image_size) & ~jnp.isnan(logits)
        masked = jnp.where(may, logits, -jnp.inf)
        scores, index = jax.lax.top_k(masked, count)
        deltas = jnp.take_along_axis(deltas, index[..., None], 1)
        boxes = boxes_lib.decode(
            deltas, jnp.asarray(anchors)[index], self.coder, clip_lower=self.two_sided_clamp
        )
        boxes = boxes_lib.clip(boxes, image_size)
        sides = boxes[..., 2:] - boxes[..., :2]
        ok = jnp.isfinite(scores) & jnp.isfinite(boxes).all(-1) & (sides > self.min_size).all(-1)
        pad = ((0, 0), (0, number - count))
        return (
            jnp.pad(boxes, (*pad, (0, 0))),
            jnp.pad(scores, pad, constant_values=-jnp.inf),
            jnp.pad(ok, pad),
        )


def centred_inside(
    anchors: Float[np.ndarray, "A 4"], image_size: Float[Array, "B 2"]
) -> Bool[Array, "B A"]:
    """Whether an anchor's centre lies on the unpadded image."""
    return (anchors_lib.centres(anchors)[None] < image_size[:, None]).all(-1)
