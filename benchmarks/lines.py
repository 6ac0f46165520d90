"""A straight line through measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Line(NamedTuple):
    """y = slope * x + intercept.

    Attributes:
      departure: the largest |measured - line| / measured.
    """

    slope: float
    intercept: float
    departure: float

    def at(self, x):
        return self.slope * np.asarray(x) + self.intercept


def fit(x: Sequence[float], y: Sequence[float]) -> Line | None:
    """Least squares of the relative departures: x may span orders of magnitude. None of fewer than three points.

    `y` is positive.
    """
    if len(x) < 3:
        return None
    x, y = np.asarray(x, float), np.asarray(y, float)
    columns = np.stack([x, np.ones_like(x)], -1) / y[:, None]
    (slope, intercept), *_ = np.linalg.lstsq(columns, np.ones_like(y), rcond=None)
    departure = np.abs((slope * x + intercept) / y - 1).max()
    return Line(float(slope), float(intercept), float(departure))
