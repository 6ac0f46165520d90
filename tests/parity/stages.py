"""Our Mask R-CNN, stage by stage, in the names, the layouts and the selections of torchvision's recording."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from configs import mask_rcnn
from jaxseg import methods, weights
from jaxseg.data import geometry
from jaxseg.methods.mask_rcnn import _for_rois, normalize
from jaxseg.ops import boxes as boxes_lib
from jaxseg.structures import Batch, RoIs
from tests.parity.reference import Reference

LEVELS = ("0", "1", "2", "3", "pool")
POOLED = 8  # RoIs whose pooled features are recorded


def config_of(reference: Reference):
    """The preset, with what the recording does in another way than published weights."""
    meta = reference.meta
    preset = "torchvision_v2" if meta.get("version") == "v2" else "torchvision"
    config = mask_rcnn.get_config(f"{preset},{meta['arch']},eps=1e-5")
    model = config.model
    model.num_classes = meta["classes"] - 1
    model.rpn.pre_nms = (1, meta["rpn_pre_nms_top_n_test"])
    model.rpn.post_nms = (1, meta["rpn_post_nms_top_n_test"])
    model.test.score = meta["box_score_thresh"]
    found = max(len(reference[f"det_scores_{i}"]) for i in (0, 1))
    model.test.max_detections = min(100, found + 8)  # fewer empty slots to compute masks for
    config.data.eval_resize.short = meta["min_size"]
    config.data.eval_resize.max = meta["max_size"]
    # The canvas that torchvision made for the two images.
    canvas = -(-reference["image_sizes"].max(0) // 32) * 32
    config.data.buckets = (tuple(canvas.tolist()),)
    return config


def batch_of(reference: Reference, config) -> Batch:
    """The recorded images as evaluation shows them to the network."""
    (bucket,) = config.data.buckets
    images = np.zeros((2, *bucket, 3), geometry.dtype(config.data.eval_resize))
    sizes = []
    for index in range(2):
        image = reference[f"image_{index}"].transpose(1, 2, 0)
        place = geometry.fixed(config.data.eval_resize, image.shape[:2], bucket)
        images[index, : place.size[0], : place.size[1]] = place.image(np.ascontiguousarray(image))
        sizes.append(place.size)
    return Batch(images, np.array(sizes, np.float32), np.ones(2, bool))


class Stages:
    """What our model computes from a recording's images and weights, and from its proposals and boxes."""

    def __init__(self, reference: Reference, config=None):
        self.reference = reference
        self.config = config_of(reference) if config is None else config
        self.model = methods.build(self.config)
        made = weights.from_torchvision(reference.state_dict(), self.config)
        self.variables = {"params": made.params, "batch_stats": made.batch_stats}
        self.batch = batch_of(reference, self.config)

    def run(self) -> dict[str, np.ndarray]:
        """Every stage in our own form and, as far as it was recorded, by the recording's names and in its form."""
        proposals, exist = _padded([self.reference[f"proposals_{i}"] for i in range(2)])
        boxes = self.reference["det_boxes_net_0"][:POOLED]

        last = f"fc{self.config.model.box_head.fcs - 1}"

        @jax.jit
        def apply(variables, *args):
            return self.model.apply(
                variables,
                *args,
                method=_stages,
                mutable=["intermediates"],
                capture_intermediates=lambda module, _: module.name == last,
            )

        out, captured = apply(self.variables, self.batch, proposals, exist, boxes)
        hidden = captured["intermediates"]["roi_heads"]["box_head"][last]["__call__"][0]
        out["box_feat"] = jax.nn.relu(hidden)
        out = jax.tree.map(np.asarray, jax.device_get(out))
        return out | _recorded_form(out, self.reference, exist)


def _recorded_form(out, reference: Reference, exist) -> dict[str, np.ndarray]:
    """Our arrays by the recording's names, in torch's order of axes and with what was recorded of them."""

    def turned(x, channels, pixels=1):
        return np.moveaxis(x, -1, 1)[:, ::channels, ::pixels, ::pixels]

    made = {"batch_sub": turned(out["batch"], 1, 5)}
    for prefix, channels in (("body", 26), ("fpn", 13), ("rpn_logits", 1), ("rpn_deltas", 1)):
        for name, level, pixels in reference.levels(prefix):
            made[name] = turned(out[f"{prefix}_{level}"], channels, pixels)
    made["anchors_sub"] = out["anchors"][::29]
    made["rpn_decoded_sub"] = out["rpn_decoded"][:, ::29]
    made["box_roi_sub"] = turned(out["box_roi"][0], 13)
    made["mask_roi_sub"] = turned(out["mask_roi"][0], 13)
    made["mask_logits"] = np.moveaxis(out["mask_logits"][0], -1, 1)[:4]
    ends = np.r_[0:32, -32:0]  # of all RoIs of both images, those that were recorded
    for name in ("box_feat", "class_logits", "box_regression"):
        made[name] = out[name][exist][ends]
    made["class_logits"] = np.roll(made["class_logits"], 1, axis=1)  # background first
    made["box_regression"] = made["box_regression"].reshape(64, -1)
    return made


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of every box of `a` with every box of `b`."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    shared = np.maximum(high - low, 0).prod(-1)
    areas_a, areas_b = (np.prod(x[:, 2:] - x[:, :2], -1) for x in (a, b))
    return shared / (areas_a[:, None] + areas_b - shared)


def _padded(arrays):
    size = max(map(len, arrays))
    exist = np.array([np.arange(size) < len(a) for a in arrays])
    padded = [np.pad(a, ((0, size - len(a)), (0, 0))) for a in arrays]
    return np.stack(padded).astype(np.float32), exist


def _stages(model, batch: Batch, proposals, exist, mask_boxes):
    images = normalize(batch, model.pixel_mean, model.pixel_std)
    levels = model.backbone(images, batch.image_size, train=False)
    pyramid = model.fpn(levels, batch.image_size, strides=model.backbone.strides, train=False)
    logits, deltas = model.rpn(pyramid)
    anchors = jnp.asarray(np.concatenate(model.rpn.anchors(pyramid)))
    out = {"batch": images, "anchors": anchors}
    out |= {f"body_{i}": level for i, level in enumerate(levels)}
    for name, level, scores, boxes in zip(LEVELS, pyramid.levels, logits, deltas, strict=True):
        out[f"fpn_{name}"] = level
        size = level.shape[:3]
        out[f"rpn_logits_{name}"] = scores.reshape(*size, -1)
        out[f"rpn_deltas_{name}"] = boxes.reshape(*size, -1)
    out["rpn_decoded"] = boxes_lib.decode(jnp.concatenate(deltas, 1), anchors, model.rpn.coder)
    own = model.rpn.propose(logits, deltas, pyramid, train=False)
    out["proposals"], out["proposals_valid"] = own.boxes, own.valid

    # Fed the recorded proposals, so that a proposal which noise exchanges does not count here.
    pyramid, heads = _for_rois(pyramid), model.roi_heads
    rois = RoIs(proposals, exist, exist)
    out["class_logits"], out["box_regression"] = heads.box_head(pyramid, rois, train=False)
    out["box_roi"] = heads.box_head.pool(pyramid, proposals[:, :POOLED], 7)
    first = jax.tree.map(lambda x: x[:1], pyramid)
    out["mask_roi"] = heads.mask_head.pool(first, mask_boxes[None], 14)
    some = jnp.ones(mask_boxes.shape[:1], bool)[None]
    masks = heads.mask_head(first, RoIs(mask_boxes[None], some, some), None, train=False)
    out["mask_logits"] = masks.logits
    out["detections"] = heads.detect(pyramid, own)
    return out
