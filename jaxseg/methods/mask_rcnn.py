"""Mask R-CNN (He et al. 2017) with FPN, complete: read this first; the other methods read as differences from it.

  images -> backbone (C2..C5) -> FPN (P2..P6) -> RPN -> proposals -> box head -> mask head

`build` is the table of contents: every part and every threshold stands where it acts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxseg.methods import atmask_rcnn, brefine, mask_losses, maskplus, ranking
from jaxseg.modeling import box_head, criteria, fpn, layers, mask_head, norms, resnet, roi_heads
from jaxseg.modeling import rpn as rpn_lib
from jaxseg.modeling.criterion import Criterion
from jaxseg.ops.roi_align import Pool, Sampling
from jaxseg.structures import Batch, Detections, Pyramid, RoIs

MASK_HEADS = {
    "fcn": lambda model, pool, /, **fields: mask_head.FCNMaskHead(**fields),
    "atmask": atmask_rcnn.mask_head,
    "brefine": brefine.mask_head,
}


class MaskRCNN(nn.Module):
    """A two-stage detector from its parts. `pixel_mean` and `pixel_std` are in 0..255, RGB."""

    backbone: nn.Module
    fpn: nn.Module
    rpn: rpn_lib.RPN
    roi_heads: nn.Module
    criterion: Criterion
    pixel_mean: Sequence[float]
    pixel_std: Sequence[float]
    dtype: jnp.dtype = jnp.float32

    def losses(
        self, batch: Batch, key: Key[Array, ""], step: Array, *, train: bool = True
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The total loss of a batch with targets, and each loss and statistic by name. `step` is the training step."""
        batch = without_invalid(batch)
        targets = batch.targets
        pyramid = self.features(batch, train=train)
        logits, deltas = self.rpn(pyramid)
        proposals = self.rpn.propose(logits, deltas, pyramid, train=train)

        anchor_key, roi_key = jax.random.split(key)
        logits, deltas = jnp.concatenate(logits, 1), jnp.concatenate(deltas, 1)
        anchors = np.concatenate(self.rpn.anchors(pyramid))
        candidates = self.rpn.candidates(anchors, batch.image_size)
        anchors = jnp.broadcast_to(anchors.astype(logits.dtype), (logits.shape[0], *anchors.shape))
        selection = self.criterion.rpn.select(anchor_key, anchors, candidates, targets)
        rpn_terms = self.criterion.rpn.loss(logits, deltas, selection)

        terms, masks = self.roi_heads.losses(
            _for_rois(pyramid), proposals, targets, roi_key, train=train
        )
        return self.criterion.total((rpn_terms, *terms), masks, step)

    def detect(self, batch: Batch) -> Detections:
        """Instances of each image, in pixels of the network input. Entries that are not valid have none."""
        return self.roi_heads.detect(*self.propose(batch))

    def propose(self, batch: Batch) -> tuple[Pyramid, RoIs]:
        """What the RoI heads take at test time: the pyramid, and the RPN's proposals."""
        pyramid = self.features(without_invalid(batch), train=False)
        logits, deltas = self.rpn(pyramid)
        proposals = self.rpn.propose(logits, deltas, pyramid, train=False)
        return _for_rois(pyramid), proposals

    def features(self, batch: Batch, *, train: bool) -> Pyramid:
        """P2..P6 of a batch of images, uint8 or float32, 0..255."""
        images = normalize(batch, self.pixel_mean, self.pixel_std).astype(self.dtype)
        levels = self.backbone(images, batch.image_size, train=train)
        return self.fpn(levels, batch.image_size, strides=self.backbone.strides, train=train)


def without_invalid(batch: Batch) -> Batch:
    """Entries that are not valid become images of size 0 x 0: all padding, without objects, anchors or statistics."""
    valid = batch.valid[:, None]
    targets = batch.targets
    if targets is not None:
        targets = targets.replace(
            valid=targets.valid & valid, crowd_valid=targets.crowd_valid & valid
        )
    return batch.replace(image_size=jnp.where(valid, batch.image_size, 0.0), targets=targets)


def normalize(batch: Batch, mean: Sequence[float], std: Sequence[float]) -> Float[Array, "B H W 3"]:
    """(pixel - mean) / std, and exactly 0 outside of the images: padding looks like the mean colour."""
    images = (batch.images - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
    inside = layers.cells_of_image(batch.image_size, *images.shape[1:3], 1)
    return jnp.where(inside[..., None], images, 0.0)


def _for_rois(pyramid: Pyramid) -> Pyramid:
    """Without P6, which exists for the RPN's largest anchors."""
    return pyramid.replace(levels=pyramid.levels[:-1], strides=pyramid.strides[:-1])


def build(config) -> MaskRCNN:
    """The model of `config` (the whole config; `config.model.num_classes` > 0)."""
    model = config.model
    atmask_rcnn.check(model)
    brefine.check(model)
    mask_losses.check(config)
    ranking.check(config)
    dtype = jnp.dtype(model.dtype)
    num_classes = model.num_classes
    losses = criteria.CRITERIA[model.criterion.name](model)
    losses = dataclasses.replace(
        losses,
        weights=atmask_rcnn.loss_weights(model),
        mask_weight=maskplus.mask_weight(config),
    )
    sampling = Sampling(**model.roi_sampling, own_cells=model.ignore_padding)
    pool = Pool(sampling, model.roi_align)
    return MaskRCNN(
        backbone=resnet.ResNet(
            depth=model.backbone.depth,
            width=model.backbone.width,
            norm=norms.by_name(model.backbone.norm, model.backbone.norm_epsilon),
            stride_in_1x1=model.backbone.stride_in_1x1,
            groups=model.backbone.groups,
            width_per_group=model.backbone.width_per_group,
            deform=model.backbone.deform,
            deform_stages=tuple(model.backbone.deform_stages),
            deform_groups=model.backbone.deform_groups,
            dtype=dtype,
        ),
        fpn=fpn.FPN(model.fpn.channels, norms.by_name(model.fpn.norm), dtype),
        rpn=rpn_lib.RPN(
            head=rpn_lib.RPNHead(
                anchors_per_cell=len(model.rpn.aspect_ratios),
                channels=model.rpn.channels,
                convs=model.rpn.convs,
                dtype=dtype,
            ),
            anchor_sizes=tuple(model.rpn.anchor_sizes),
            aspect_ratios=tuple(model.rpn.aspect_ratios),
            coder=losses.rpn.coder,
            pre_nms=tuple(model.rpn.pre_nms),
            post_nms=tuple(model.rpn.post_nms),
            nms_iou=model.rpn.nms_iou,
            min_size=model.rpn.min_size,
            round_anchors=model.rpn.round_anchors,
            fitted_stride=model.rpn.fitted_stride,
            two_sided_clamp=model.two_sided_clamp,
            ignore_padding=model.ignore_padding,
        ),
        roi_heads=roi_heads.SingleTopology(
            box_head=box_head.FCBoxHead(
                num_logits=losses.roi.num_logits(num_classes),
                num_boxes=1 if model.box_head.class_agnostic else num_classes,
                pool=pool,
                pool_size=model.box_head.pool,
                fcs=model.box_head.fcs,
                fc_dim=model.box_head.fc_dim,
                convs=model.box_head.convs,
                channels=model.box_head.channels,
                norm=norms.by_name(model.box_head.norm),
                dtype=dtype,
            ),
            mask_head=_mask_head(model, pool, dtype),
            task=losses.roi,
            num_classes=num_classes,
            test=roi_heads.DetectionSettings(
                score=model.test.score,
                nms_iou=model.test.nms_iou,
                max_detections=model.test.max_detections,
                candidates=model.test.candidates,
                min_size=model.test.min_size,
                two_sided_clamp=model.two_sided_clamp,
            ),
        ),
        criterion=losses,
        pixel_mean=tuple(model.pixel_mean),
        pixel_std=tuple(model.pixel_std),
        dtype=dtype,
    )


def _mask_head(model, pool: Pool, dtype) -> nn.Module:
    num_maps = 1 if model.mask_head.class_agnostic else model.num_classes
    source = model.mask_head.get("source", "multi")
    return MASK_HEADS[model.mask_head.name](
        model,
        pool,
        num_maps=num_maps,
        pool=pool.finest if source == "P2" else pool,
        pool_size=model.mask_head.pool,
        channels=model.mask_head.channels,
        convs=model.mask_head.convs,
        norm=norms.by_name(model.mask_head.norm),
        loss=mask_losses.of(model),
        soft_targets=model.mask_head.soft_targets,
        dtype=dtype,
        **maskplus.parts(model, pool, num_maps, dtype),
    )
