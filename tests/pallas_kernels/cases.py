"""Inputs on which every implementation is tried, and one function that computes all there is to compare."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.experimental.pallas.tpu  # jax imports it with the first kernel, and then compiles everything anew
import jax.numpy as jnp
import numpy as np

import pallas_kernels
from tests.pallas_kernels import oracles


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    features: Sequence[Any]  # (B, H_l, W_l, C) each
    boxes: Any  # (B, R, 4)
    levels: Any  # (B, R)
    probabilities: Any  # (B, R, Hp, Wp)
    cotangent: Any  # (B, R, h, w, C)
    image_size: Any  # (B, 2)
    options: tuple[tuple[str, Any], ...]  # keyword arguments of both functions

    def replace(self, **changes) -> Case:
        return dataclasses.replace(self, **changes)

    def astype(self, dtype) -> Case:
        """With features, probabilities and cotangent in `dtype`; their values stay those of bfloat16."""
        return self.replace(
            features=tuple(f.astype(dtype) for f in self.features),
            probabilities=self.probabilities.astype(dtype),
            cotangent=self.cotangent.astype(dtype),
        )


class Results(NamedTuple):
    """Both functions' values and gradients for the case's cotangent."""

    plain: Any
    d_features: Any
    d_boxes: Any
    aware: Any
    aware_d_features: Any
    d_probabilities: Any
    aware_d_boxes: Any


def _round(x):
    """Numbers that bfloat16 holds exactly."""
    return x.astype(jnp.bfloat16).astype(np.float32)


def _case(seed, shapes, boxes, levels, *, channels, maps, image_size, **options) -> Case:
    rng = np.random.default_rng(seed)
    batch, rois = levels.shape
    options = {"sampling_ratio": 2, **options}
    return Case(
        tuple(_round(rng.normal(size=(batch, *s, channels))) for s in shapes),
        np.asarray(boxes, np.float32),
        np.asarray(levels, np.int32),
        _round(rng.uniform(size=(batch, rois, *maps))),
        _round(rng.normal(size=(batch, rois, *options["output_size"], channels))),
        np.asarray(image_size, np.float32),
        tuple(options.items()),
    )


@functools.cache
def hard(channels: int) -> Case:
    """Two levels, cut tiles, two by two blocks of tiles, and each kind of box; the canvas is 72 x 88 pixels."""
    nan, inf = np.nan, np.inf
    first = [
        [3.5, 5.25, 30.0, 27.0],
        [-9.0, -2.0, 13.0, 11.5],  # over a corner: some samples dropped, some clamped
        [68.0, 67.0, 95.0, 79.0],  # over the opposite one, and in the last block of tiles only
        [10.0, 10.0, 10.0, 10.0],  # a point
        [20.0, 12.0, 14.0, 30.0],  # inverted
        [nan, 0.0, 9.0, nan],
        [8.0, 16.0, 64.0, 24.0],  # wide
        [0.0, 0.0, 88.0, 72.0],
    ]
    second = [
        [-500.0, -500.0, 900.0, 900.0],  # huge
        [200.0, 200.0, 300.0, 300.0],  # outside
        [-inf, 0.0, inf, 20.0],
        [1e30, 1e30, 3e38, 3e38],
        [66.0, 1.0, 71.5, 39.0],  # tall
        [0.25, 0.5, 2.0, 1.75],  # smaller than a cell
        [40.0, 8.0, 60.0, 36.0],
        [40.0, 8.0, 60.0, 36.0],  # the same again, on another level
    ]
    return _case(
        0,
        [(18, 22), (9, 11)],
        [first, second],
        np.array([[0, 0, 0, 0, 1, 0, 1, -3], [1, 0, 0, 1, 0, 0, 0, 7]]),  # out of range: clipped
        channels=channels,
        maps=(5, 7),
        image_size=[[72.0, 88.0], [33.0, 66.0]],
        strides=(4, 8),
        output_size=(3, 2),
    )


@functools.cache
def tiny(channels: int, sampling_ratio: int = 1) -> Case:
    """One map of 5 x 3 cells: cheap to compile."""
    return _case(
        1,
        [(5, 3)],
        [[[0.5, 1.0, 2.75, 4.5], [-1.5, -1.0, 2.0, 1.5]], [[1.0, 0.0, 4.0, 5.0], [0, 9, 2, 12]]],
        np.zeros((2, 2)),
        channels=channels,
        maps=(2, 3),
        image_size=[[5.0, 3.0], [5.0, 3.0]],
        strides=(1,),
        output_size=(1, 2),
        sampling_ratio=sampling_ratio,
    )


@functools.cache
def adaptive(channels: int, most: int) -> Case:
    """As many samples as a bin spans cells, up to `most`; the ratio differs between the axes."""
    boxes = [
        [1.0, 2.0, 2.5, 2.9],  # one sample
        [0.0, 1.0, 4.0, 5.0],  # a whole number of cells in each bin
        [2.0, 0.5, 4.5, 8.5],  # tall
        [-0.5, 3.0, 8.5, 4.5],  # wide
        [3.0, 4.0, 5.0, 4.0],  # empty
        [-20.0, -30.0, 30.0, 20.0],  # more than `most`
    ]
    return _case(
        2,
        [(9, 9)],
        [boxes],
        np.zeros((1, len(boxes))),
        channels=channels,
        maps=(3, 4),
        image_size=[[9.0, 9.0]],
        strides=(1,),
        output_size=(2, 2),
        sampling_ratio=0,
        max_sampling_ratio=most,
    )


def plain(case: Case, implementation, features=None, boxes=None) -> jax.Array:
    return pallas_kernels.multilevel_roi_align(
        case.features if features is None else features,
        case.boxes if boxes is None else boxes,
        case.levels,
        image_size=case.image_size,
        implementation=implementation,
        **dict(case.options),
    )


def aware(case: Case, implementation, features=None, boxes=None, probabilities=None) -> jax.Array:
    return pallas_kernels.shape_aware_roi_align(
        case.features if features is None else features,
        case.boxes if boxes is None else boxes,
        case.levels,
        case.probabilities if probabilities is None else probabilities,
        image_size=case.image_size,
        implementation=implementation,
        **dict(case.options),
    )


def run(case: Case, implementation) -> Results:
    """Everything, compiled once for all cases of the same shapes."""
    arrays = case.replace(options=())
    return jax.device_get(
        _compiled(implementation, case.options)(
            **{f.name: getattr(arrays, f.name) for f in dataclasses.fields(Case)[:-1]}
        )
    )


@functools.cache
def first_run(case: Case, implementation) -> Results:
    return run(case, implementation)


@functools.cache
def _compiled(implementation, options):
    def everything(**arrays) -> Results:
        case = Case(**arrays, options=options)
        value, pull = jax.vjp(
            lambda f, b: plain(case, implementation, f, b), case.features, case.boxes
        )
        aware_value, aware_pull = jax.vjp(
            lambda f, b, p: aware(case, implementation, f, b, p),
            case.features,
            case.boxes,
            case.probabilities,
        )
        d_features, d_boxes = pull(case.cotangent)
        aware_d_features, aware_d_boxes, d_probabilities = aware_pull(case.cotangent)
        return Results(
            value,
            d_features,
            d_boxes,
            aware_value,
            aware_d_features,
            d_probabilities,
            aware_d_boxes,
        )

    return jax.jit(everything)


@functools.cache
def by_loop(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Both functions' values from `oracles.loop`."""
    call = functools.partial(
        oracles.loop,
        case.features,
        case.boxes,
        case.levels,
        image_size=case.image_size,
        **dict(case.options),
    )
    with np.errstate(invalid="ignore"):
        return call(), call(case.probabilities)


@functools.cache
def by_matrices(case: Case) -> Results:
    """Values and gradients from `oracles.LinearMap`."""
    options = dict(case.options)
    shape = case.cotangent.shape
    value, aware_value = np.zeros(shape), np.zeros(shape)
    d_features = [np.zeros(f.shape) for f in case.features]
    aware_d_features = [np.zeros(f.shape) for f in case.features]
    d_probabilities = np.zeros(case.probabilities.shape)
    for b, r in np.ndindex(*case.levels.shape):
        level = np.clip(case.levels[b, r], 0, len(case.features) - 1)
        stride = options["strides"][level]
        own = np.ceil(case.image_size[b] / stride).astype(int)
        feature = np.asarray(case.features[level][b], np.float64)[: own[0], : own[1]]
        part = np.index_exp[b, : own[0], : own[1]]
        with np.errstate(invalid="ignore"):
            roi = oracles.LinearMap(
                case.boxes[b, r],
                stride,
                feature.shape[:2],
                options["output_size"],
                options["sampling_ratio"],
                options.get("aligned", True),
                options.get("max_sampling_ratio", 4),
            )
        probability = np.asarray(case.probabilities[b, r], np.float64)
        d_out = np.asarray(case.cotangent[b, r], np.float64)
        value[b, r] = roi.forward(feature)
        aware_value[b, r] = roi.forward(feature, probability)
        d_features[level][part] += roi.d_feature(d_out)
        aware_d_features[level][part] += roi.d_feature(d_out, probability)
        d_probabilities[b, r] = roi.d_probability(feature, d_out, probability)
    zeros = np.zeros(case.boxes.shape)
    return Results(
        value,
        tuple(d_features),
        zeros,
        aware_value,
        tuple(aware_d_features),
        d_probabilities,
        zeros,
    )
