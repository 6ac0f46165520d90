"""A Mask R-CNN that compiles in seconds, and batches for it."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import common
from jaxseg.structures import Batch, Targets

CLASSES = 3


def config(dtype="float32"):
    config = common.base()
    common.small(config)
    model = config.model
    model.num_classes = CLASSES
    model.dtype = dtype
    model.backbone.depth, model.backbone.width, model.backbone.norm = 10, 8, "batch_norm"
    model.fpn.channels = model.rpn.channels = 16
    model.fpn.norm = "none"
    model.rpn.anchor_sizes = (8, 16, 32, 48, 64)
    model.rpn.pre_nms, model.rpn.post_nms = (60, 40), (30, 20)
    model.box_head.fc_dim = 16
    model.mask_head.channels, model.mask_head.convs = 16, 1
    model.criterion.rpn.samples = model.criterion.roi.samples = 32
    model.test.max_detections, model.test.candidates, model.test.score = 10, 40, 0.0
    return config


def batch(images=2, objects=4, seed=0, size=64) -> Batch:
    """Images of `size` pixels on a canvas of 64, each with `objects` slots, the last one empty."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 30, (images, objects, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 30, corner.shape)], -1)
    valid = np.ones((images, objects), bool)
    valid[:, -1] = False
    targets = Targets(
        boxes=boxes.astype(np.float32),
        classes=rng.integers(0, CLASSES, (images, objects)).astype(np.int32),
        valid=valid,
        masks=rng.integers(0, 256, (images, objects, 16, 2)).astype(np.uint8),
        crowd_boxes=np.zeros((images, 1, 4), np.float32),
        crowd_valid=np.zeros((images, 1), bool),
    )
    pixels = rng.integers(0, 256, (images, 64, 64, 3)).astype(np.uint8)
    return Batch(pixels, np.full((images, 2), size, np.float32), np.ones(images, bool), targets)


def variables(model, example: Batch, seed=0):
    key = jax.random.key(seed, impl="rbg")  # compiles several times faster than threefry
    init = jax.jit(lambda k: model.init(k, example, k, jnp.int32(0), method="losses"))
    made = init(key)
    # Larger predictors than at the start of training: every loss then has something to say.
    rng = np.random.default_rng(seed)

    def stir(path, leaf):
        names = [p.key for p in path]
        if names[-2] in ("objectness", "deltas", "classes", "predictor"):
            return leaf + jnp.asarray(rng.normal(0, 0.05, leaf.shape), leaf.dtype)
        return leaf

    return dict(made, params=jax.tree_util.tree_map_with_path(stir, made["params"]))


def loss_function(model):
    def losses(params, batch_stats, batch, key):
        (total, log), updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch,
            key,
            jnp.int32(0),
            method="losses",
            mutable=["batch_stats"],
        )
        return total, (log, updates["batch_stats"])

    return losses
