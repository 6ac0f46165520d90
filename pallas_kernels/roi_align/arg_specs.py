"""Named shapes of real calls, shared by the benchmark, the ahead-of-time compile and the tests."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.roi_align import api
from pallas_kernels.roi_align.grid import Spec
from pallas_kernels.roi_align.operator import Implementation


class Args(NamedTuple):
    """The arrays of a call (or their shapes), and a cotangent of its result."""

    features: tuple[jax.Array, ...]  # one (B, H_l, W_l, C) a level
    boxes: jax.Array  # (B, R, 4) float32, xyxy in pixels
    levels: jax.Array  # (B, R) int32
    probabilities: jax.Array | None  # (B, R, Hp, Wp) float32; None: RoIAlign
    d_out: jax.Array  # (B, R, h, w, C)


class ArgSpec(NamedTuple):
    """What is static about a call: one head of a two-stage detector over the levels P2 to P5."""

    batch: int
    image: tuple[int, int]  # height and width in pixels, multiples of the last stride
    rois: int  # an image
    output_size: tuple[int, int]
    dtype: np.dtype
    channels: int = 256
    strides: tuple[int, ...] = (4, 8, 16, 32)
    probabilities: int | None = None  # side of the probability maps of Shape-aware RoIAlign

    @property
    def spec(self) -> Spec:
        """As an implementation gets it."""
        return Spec(
            shapes=tuple((self.image[0] // s, self.image[1] // s) for s in self.strides),
            strides=self.strides,
            channels=self.channels,
            dtype=np.dtype(self.dtype),
            output_size=self.output_size,
            sampling_ratio=2,
            aligned=True,
            max_sampling_ratio=4,
            rois=self.rois,
        )

    def shape_structs(self, sharding: jax.sharding.Sharding | None = None) -> Args:
        """The shapes and dtypes of `random_args`, without the arrays."""
        shapes = jax.eval_shape(self._random, jax.random.key(0))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
        )

    def random_args(self, seed: int = 0) -> Args:
        """Normal features and cotangents, uniform probabilities and `random_boxes`, made on the default device."""
        return jax.jit(self._random)(jax.random.key(seed))

    def call(self, args: Args, implementation: str | Implementation | None = None) -> jax.Array:
        """The public function on `args`: (B, R, h, w, C)."""
        options = dict(
            strides=self.strides, output_size=self.output_size, implementation=implementation
        )
        if args.probabilities is None:
            return api.multilevel_roi_align(args.features, args.boxes, args.levels, **options)
        return api.shape_aware_roi_align(
            args.features, args.boxes, args.levels, args.probabilities, **options
        )

    def _random(self, key: jax.Array) -> Args:
        *of_levels, of_boxes, of_probabilities, of_out = jax.random.split(
            key, len(self.strides) + 3
        )
        normal = functools.partial(jax.random.normal, dtype=self.dtype)
        features = tuple(
            normal(k, (self.batch, *shape, self.channels))
            for k, shape in zip(of_levels, self.spec.shapes, strict=True)
        )
        boxes = random_boxes(of_boxes, (self.batch, self.rois), self.image)
        probabilities = None
        if self.probabilities:
            shape = (self.batch, self.rois, self.probabilities, self.probabilities)
            probabilities = jax.random.uniform(of_probabilities, shape)
        d_out = normal(of_out, (self.batch, self.rois, *self.output_size, self.channels))
        return Args(features, boxes, fpn_levels(boxes), probabilities, d_out)


def random_boxes(key: jax.Array, shape: tuple[int, ...], image: tuple[int, int]) -> jax.Array:
    """Boxes inside the image as proposals are, (*shape, 4) xyxy: the square root of the area is log-uniform from 16 to
    600 pixels, and so is width over height from e^-0.7 to e^0.7; sides end at the image's."""
    of_size, of_aspect, of_place = jax.random.split(key, 3)
    side = jnp.exp(jax.random.uniform(of_size, shape, minval=np.log(16.0), maxval=np.log(600.0)))
    root = jnp.exp(jax.random.uniform(of_aspect, shape, minval=-0.35, maxval=0.35))
    limit = jnp.asarray(image[::-1], jnp.float32)
    size = jnp.minimum(jnp.stack([side * root, side / root], -1), limit)
    start = jax.random.uniform(of_place, (*shape, 2)) * (limit - size)
    return jnp.concatenate([start, start + size], -1)


def fpn_levels(boxes: jax.Array) -> jax.Array:
    """Indices into P2 to P5 (Lin et al. 2017, equation 1): level 4 for the area of 224 x 224 pixels."""
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    level = jnp.floor(4 + jnp.log2(jnp.sqrt(area) / 224))
    return jnp.clip(level, 2, 5).astype(jnp.int32) - 2


_HEADS = {
    "box_7x7": dict(rois=512, output_size=(7, 7)),
    "mask_14x14": dict(rois=128, output_size=(14, 14)),
    "shape_aware_7x7": dict(rois=512, output_size=(7, 7), probabilities=28),
}
_DTYPES = {"bf16": jnp.dtype(jnp.bfloat16), "fp32": jnp.dtype(jnp.float32)}


def _named(suffix: str, **sizes) -> Mapping[str, ArgSpec]:
    return {
        f"{head}_{dtype}{suffix}": ArgSpec(**(of_head | sizes), dtype=_DTYPES[dtype])
        for head, of_head in _HEADS.items()
        for dtype in _DTYPES
    }


PRODUCTION = _named("", batch=16, image=(800, 1344))  # COCO training on one large accelerator
SMALL = _named("_small", batch=1, image=(800, 1216))  # one image, for a CPU
TINY = _named("_tiny", batch=2, image=(128, 192), rois=8, channels=128)  # for interpreters
# Mask R-CNN in float32, training with two images and detection in one: what a CPU computes.
MASK_RCNN: Mapping[str, ArgSpec] = {
    f"{call}_{image[0]}": ArgSpec(*of_call, dtype=jnp.dtype(jnp.float32))
    for image in ((512, 512), (800, 1344))
    for call, of_call in {
        "train_box": (2, image, 512, (7, 7)),
        "train_mask": (2, image, 128, (14, 14)),
        "test_box": (1, image, 1000, (7, 7)),
        "test_mask": (1, image, 100, (14, 14)),
    }.items()
}
ARG_SPECS: Mapping[str, ArgSpec] = {**PRODUCTION, **SMALL, **TINY, **MASK_RCNN}
