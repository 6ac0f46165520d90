"""What heads are tried on: inputs on which the decisions of a method differ, and what makes them."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxseg.structures import Pyramid, RoIs, Targets

JUNK = (-7.0, 3.0, 1e4, 2e4)  # a box that must not matter
OBJECTS = (  # boxes of two images, to be moved by up to a pixel
    # Two objects of different classes over each other, and one apart; the last slot is empty.
    ((20, 30, 80, 100), (45, 38, 118, 104), (100, 20, 180, 150), JUNK),
    # Two nearly alike of different classes, and a small one within one so large that it is of the second level.
    ((4, 50, 136, 188), (30, 20, 70, 72), (38, 30, 86, 78), (80, 90, 138, 150)),
)
VALID = ((True, True, True, False), (True,) * 4)


@dataclasses.dataclass(frozen=True)
class Inputs:
    pyramid: Pyramid
    proposals: RoIs
    targets: Targets


def lopsided_masks(rng, shape, side: int) -> np.ndarray:
    """Rows that are filled up to a column, which grows downwards: none is its own mirror image or transpose."""
    ends = np.sort(rng.integers(2, side + 1, (*shape, side)), axis=-1)
    return np.arange(side) < ends[..., None]
