"""How an array of PyTorch's becomes one of ours, and back; every one is a permutation, so that nothing is rounded.

convolution           (O, I, h, w)   -> (h, w, I, O)      groups: I is the channels of a group
linear layer          (O, I)         -> (I, O)
the first one         (O, C * H * W) -> (H * W * C, O)    its input is a feature map, laid out C, H, W there
2x2 deconvolution     (I, O, 2, 2)   -> (2, 2, I, O)      tap [i, j] is output (2y + i, 2x + j) in both
1x1 predictor of maps (K, C, 1, 1)   -> (C, K)
vector                as it is
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Transform:
    """`take` maps their array to ours, `give` ours to theirs, `shape` our shape to theirs."""

    take: Callable[[np.ndarray], np.ndarray]
    give: Callable[[np.ndarray], np.ndarray]
    shape: Callable[[Shape], Shape]

    def then(self, take, give) -> Transform:
        """With a step between that keeps the shape; `take` and `give` act on their form of the array."""
        return Transform(lambda x: self.take(take(x)), lambda x: give(self.give(x)), self.shape)


def _transpose(*axes: int) -> Transform:
    """`axes` as in `np.transpose`, from theirs to ours."""
    inverse = tuple(int(i) for i in np.argsort(axes))
    return Transform(
        lambda x: x.transpose(axes),
        lambda x: x.transpose(inverse),
        lambda shape: tuple(shape[i] for i in inverse),
    )


VECTOR = _transpose(0)
CONV = _transpose(2, 3, 1, 0)
LINEAR = _transpose(1, 0)
DECONV = _transpose(2, 3, 0, 1)
PREDICTOR = Transform(
    lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None], lambda s: (s[1], s[0], 1, 1)
)


def flip_input(transform: Transform) -> Transform:
    """For a convolution whose input channels are in the opposite order there: BGR."""
    return transform.then(lambda x: x[:, ::-1], lambda x: x[:, ::-1])


def linear_of_map(pool: int) -> Transform:
    """A linear layer on a flattened feature map of pool x pool cells."""

    def take(x):
        out = x.shape[0]
        return x.reshape(out, -1, pool, pool).transpose(2, 3, 1, 0).reshape(-1, out)

    def give(x):
        out = x.shape[1]
        return x.reshape(pool, pool, -1, out).transpose(3, 2, 0, 1).reshape(out, -1)

    return Transform(take, give, LINEAR.shape)


def take_rows(transform: Transform, rows: np.ndarray, count: int) -> Transform:
    """Our outputs are `rows` of their `count` rows, in this order. `give` leaves the other rows 0."""

    def scatter(x):
        full = np.zeros((count, *x.shape[1:]), x.dtype)
        full[rows] = x
        return full

    return Transform(
        lambda x: transform.take(x[rows]),
        lambda x: scatter(transform.give(x)),
        lambda shape: (count, *transform.shape(shape)[1:]),
    )


def folded_variance(epsilon: float) -> np.float32:
    """The variance v for which v + epsilon is exactly 1 in float32: a norm with mean 0 is then scale * x + bias."""
    return np.float32(1) - np.float32(epsilon)
