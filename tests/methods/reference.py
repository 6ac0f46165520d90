"""What the step-by-step references of the methods share: boxes, pooling and networks in float64 NumPy, a RoI at a time.

It shares no code with jaxseg: a network is its dictionary of parameters, and pooling is the loop over samples in
tests/pallas_kernels/oracles.py. An image has `levels` (H x W x C each), `strides` and `size` (height, width).

No decision may hang on rounding, or another machine would decide otherwise: `at_least` refuses those that would.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tests.pallas_kernels import oracles


@dataclasses.dataclass(frozen=True)
class Object:
    box: np.ndarray  # xyxy
    label: int
    mask: np.ndarray  # S x S of 0 and 1 over the box


def crop(thing: Object, box, size: int) -> np.ndarray:
    """Which of the size x size cells of `box` the object covers by half or more: 2 x 2 bilinear samples a cell."""
    side = len(thing.mask)
    fraction = (np.arange(2 * size) + 0.5) / (2 * size)

    def tents(axis):  # max(0, 1 - |a - j|): pixel j of the mask has its centre at j + 1/2
        place = box[axis] + fraction * (box[axis + 2] - box[axis])
        extent = thing.box[axis + 2] - thing.box[axis]
        pixel = (place - thing.box[axis]) / extent * side - 0.5
        return np.maximum(0.0, 1.0 - np.abs(pixel[:, None] - np.arange(side)))

    samples = tents(1) @ thing.mask @ tents(0).T  # rows are y
    share = samples.reshape(size, 2, size, 2).mean((1, 3))
    # Shares are rounded to 1/4096.
    return np.vectorize(lambda x: at_least(x, 0.5 - 0.5 / 4096, 1e-6))(share)


# Networks, as dictionaries of parameters.


def pool(image, box, size: int, mask=None) -> np.ndarray:
    """RoIAlign, or Shape-aware RoIAlign with `mask` (eq. 4), on the level that FPN's rule gives the box."""
    side = math.sqrt(max((box[2] - box[0]) * (box[3] - box[1]), 1e-9))
    level = min(max(2 + math.floor(math.log2(side / 224.0)), 0), len(image.levels) - 1)
    return oracles.loop(
        [features[None] for features in image.levels],
        np.asarray(box)[None, None],
        np.array([[level]]),
        None if mask is None else mask[None, None],
        strides=image.strides,
        output_size=(size, size),
        image_size=[image.size],
    )[0, 0]


def box_head(params, x) -> tuple[np.ndarray, np.ndarray]:
    """(K + 1 logits, (K or 1, 4) deltas)."""
    x = x.reshape(-1)
    for name in ("fc0", "fc1"):
        x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0.0)
    logits = x @ params["classes"]["kernel"] + params["classes"]["bias"]
    deltas = x @ params["deltas"]["kernel"] + params["deltas"]["bias"]
    return logits, deltas.reshape(-1, 4)


def mask_head(params, x, c: int) -> tuple[np.ndarray, np.ndarray]:
    """(features after the convolution, logits of class c at twice their size)."""
    size = len(x)
    kernel, padded = params["conv0"]["kernel"], np.pad(x, ((1, 1), (1, 1), (0, 0)))
    windows = (padded[i : i + size, j : j + size] @ kernel[i, j] for i, j in np.ndindex(3, 3))
    features = np.maximum(sum(windows) + params["conv0"]["bias"], 0.0)
    up = np.zeros((2 * size, 2 * size, features.shape[-1]))
    for i, j in np.ndindex(2, 2):
        up[i::2, j::2] = features @ params["deconv"]["kernel"][i, j] + params["deconv"]["bias"]
    predictor = params["predictor"]
    return features, np.maximum(up, 0.0) @ predictor["kernel"][:, c] + predictor["bias"][c]


# Arithmetic.


def at_least(value: float, threshold: float, margin: float = 1e-5) -> bool:
    assert abs(value - threshold) > margin, f"{value} against {threshold}: rounding would decide"
    return bool(value > threshold)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def decode(box, deltas, coder, image) -> np.ndarray:
    """The box that deltas lead to, inside the image."""
    dx, dy, dw, dh = np.asarray(deltas) / coder
    w, h = box[2] - box[0], box[3] - box[1]
    x, y = box[0] + w / 2 + dx * w, box[1] + h / 2 + dy * h
    w, h = (side * math.exp(min(d, math.log(1000 / 16))) for side, d in ((w, dw), (h, dh)))
    height, width = image.size
    corners = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return np.clip(corners, 0.0, [width, height, width, height])


def encode(goal, box, coder) -> np.ndarray:
    """The deltas that `decode` makes `goal` of."""
    w, h = box[2] - box[0], box[3] - box[1]
    goal_w, goal_h = goal[2] - goal[0], goal[3] - goal[1]
    dx = (goal[0] + goal[2] - box[0] - box[2]) / 2 / w
    dy = (goal[1] + goal[3] - box[1] - box[3]) / 2 / h
    return np.array([dx, dy, math.log(goal_w / w), math.log(goal_h / h)]) * coder


def area(box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def shared(a, b) -> float:
    return area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])


def iou(a, b) -> float:
    return shared(a, b) / (area(a) + area(b) - shared(a, b))


def covered(box, crowd) -> float:
    return shared(box, crowd) / area(box) if area(box) else 0.0
