"""What RoIAlign and Shape-aware RoIAlign should give, twice over in float64 NumPy and independent of each other.

`loop` takes one bilinear sample after another, as torchvision's rule is written. `LinearMap` writes the same rule as
matrices, and so also has the exact gradients. Neither shares code with pallas_kernels or with the other.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np


def loop(
    features,
    boxes,
    levels,
    probabilities=None,
    *,
    strides,
    output_size,
    sampling_ratio=2,
    aligned=True,
    image_size=None,
    max_sampling_ratio=4,
):
    """(B, R, h, w, C): the mean over a bin's samples of the feature, times the probability if there is one."""
    bins_y, bins_x = output_size
    batch, rois = levels.shape
    out = np.zeros((batch, rois, bins_y, bins_x, features[0].shape[-1]))
    for b, r in np.ndindex(batch, rois):
        level = min(max(int(levels[b, r]), 0), len(features) - 1)
        feature, stride = np.asarray(features[level][b], np.float64), strides[level]
        height, width = feature.shape[:2]
        if image_size is not None:
            height, width = (
                min(math.ceil(n / stride), m)
                for n, m in zip(image_size[b], (height, width), strict=True)
            )
        x1, y1, x2, y2 = np.asarray(boxes[b, r], np.float64) / stride - (0.5 if aligned else 0)
        w, h = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        per_y, per_x = (
            sampling_ratio or _adaptive(n, bins, max_sampling_ratio)
            for n, bins in ((h, bins_y), (w, bins_x))
        )
        for i, j, k, m in np.ndindex(bins_y, bins_x, per_y, per_x):
            v, u = (i + (k + 0.5) / per_y) / bins_y, (j + (m + 0.5) / per_x) / bins_x
            sample = _bilinear(feature, y1 + v * h, x1 + u * w, height, width)
            if probabilities is not None:
                sample = sample * _at_fraction(probabilities[b, r], v, u)
            out[b, r, i, j] += sample / (per_y * per_x)
    return out


def _adaptive(size, bins, most):
    """As many samples as a bin spans cells, rounded up; none in an empty box."""
    return 0 if math.isnan(size) or size <= 0 else int(min(math.ceil(min(size / bins, most)), most))


def _bilinear(feature, y, x, height, width):
    """Zero further than a cell off the map, clamped to the border if nearer."""
    if not (-1 <= y <= height and -1 <= x <= width):  # so for NaN
        return np.zeros(feature.shape[2:])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    fy, fx = y - y0, x - x0
    top = (1 - fx) * feature[y0, x0] + fx * feature[y0, x1]
    bottom = (1 - fx) * feature[y1, x0] + fx * feature[y1, x1]
    return (1 - fy) * top + fy * bottom


def _at_fraction(probability, v, u):
    """The map at the place (v, u) of its box, 0 to 1; cell centres at half numbers, clamped at the border."""
    height, width = probability.shape
    return _bilinear(
        np.asarray(probability, np.float64),
        min(max(v * height - 0.5, 0), height - 1),
        min(max(u * width - 0.5, 0), width - 1),
        height,
        width,
    )


@dataclasses.dataclass
class LinearMap:
    """One RoI of one (H, W) map as matrices: RoIAlign is linear in the features."""

    box: np.ndarray  # (4,) xyxy in image pixels
    stride: float
    shape: tuple[int, int]  # the map's (H, W), or the part of it that is sampled
    output_size: tuple[int, int]
    ratio: int  # 0: adaptive
    aligned: bool = True
    most: int = 4  # of an adaptive ratio

    def __post_init__(self):
        corner = np.asarray(self.box, np.float64) / self.stride - (0.5 if self.aligned else 0)
        self.rows = self._interpolation(corner[1], corner[3], self.shape[0], self.output_size[0])
        self.columns = self._interpolation(corner[0], corner[2], self.shape[1], self.output_size[1])

    def _interpolation(self, start, end, cells, bins):
        """(bins, samples, cells): hat functions about the samples, clamped to the border, zero rows beyond it."""
        size = end - start if self.aligned else np.maximum(end - start, 1)
        ratio = self.ratio or int(np.clip(np.ceil(np.nan_to_num(size) / bins), 0, self.most))
        at = start + self._fractions(bins, ratio) * size
        near = np.maximum(0, 1 - np.abs(np.clip(at, 0, cells - 1)[:, None] - np.arange(cells)))
        near[~((at >= -1) & (at <= cells))] = 0
        return near.reshape(bins, ratio, cells)

    @staticmethod
    def _fractions(bins, ratio):
        return (np.arange(bins * ratio) + 0.5) / max(bins * ratio, 1)

    def _guidance(self, probability):
        """Matrices that take (Hp, Wp) to the samples: (bins, samples, Hp) and (bins, samples, Wp)."""
        matrices = []
        for cells, feature in zip(probability.shape, (self.rows, self.columns), strict=True):
            bins, ratio = feature.shape[:2]
            at = np.clip(self._fractions(bins, ratio) * cells - 0.5, 0, cells - 1)
            hat = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells)))
            matrices.append(hat.reshape(bins, ratio, cells))
        return matrices

    @property
    def _mean(self):
        return 1 / max(self.rows.shape[1] * self.columns.shape[1], 1)

    def _matrix(self, probability=None):
        """(h, w, H, W): the share of each cell in each bin."""
        weights = np.ones((*self.output_size, self.rows.shape[1], self.columns.shape[1]))
        if probability is not None:
            by_row, by_column = self._guidance(probability)
            weights = np.einsum("ikp,jmq,pq->ijkm", by_row, by_column, np.float64(probability))
        return np.einsum("ijkm,iky,jmx->ijyx", weights, self.rows, self.columns) * self._mean

    def forward(self, feature, probability=None):
        """(H, W, C) -> (h, w, C)."""
        return np.einsum("ijyx,yxc->ijc", self._matrix(probability), np.float64(feature))

    def d_feature(self, d_out, probability=None):
        """(h, w, C) -> (H, W, C)."""
        return np.einsum("ijyx,ijc->yxc", self._matrix(probability), np.float64(d_out))

    def d_probability(self, feature, d_out, probability):
        """The gradient (Hp, Wp) with respect to the probabilities."""
        by_row, by_column = self._guidance(probability)
        values = np.einsum("iky,jmx,yxc,ijc->ijkm", self.rows, self.columns, feature, d_out)
        return np.einsum("ijkm,ikp,jmq->pq", values * self._mean, by_row, by_column)
