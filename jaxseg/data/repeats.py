"""Repeat factors: images of rare classes come more than once in an epoch (Gupta et al. 2019, LVIS, section 4).

  f(c) = share of the images that have class c       r(c) = max(1, sqrt(t / f(c)))       r(image) = max over its classes

as in Detectron2's RepeatFactorTrainingSampler: crowd regions count as objects, an image without objects has factor 1,
and the fraction of a factor is rounded at random, anew in every epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxseg.data import source

_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, the step of SplitMix64
_STREAM = 0x5250  # keeps these draws apart from the plan's and the images'


def of_source(
    source_: source.Source, images: Sequence[int], threshold: float
) -> Float[np.ndarray, "N"]:
    """The repeat factors of `images`, positions in the source, among each other; `threshold` is t."""
    return factors([source.image_classes(source_, i) for i in images], threshold)


def factors(classes: Sequence[np.ndarray], threshold: float) -> Float[np.ndarray, "N"]:
    """Repeat factors.

    Args:
      classes: of each image the class indices of its objects, in any order, any number of times.
      threshold: classes that a smaller share of the images has are repeated; 0: none is.
    """
    found = np.ones(len(classes))
    sizes = [len(c) for c in classes]
    if not sum(sizes):
        return found
    flat = np.concatenate(list(classes)).astype(np.int64)
    count = int(flat.max()) + 1
    # Pairs of an image and a class of it, once each, as one number: sorting those is fast.
    pairs = np.unique(np.repeat(np.arange(len(classes)), sizes) * count + flat)
    image, index = np.divmod(pairs, count)
    share = np.bincount(index, minlength=count) / len(classes)
    np.maximum.at(found, image, np.sqrt(threshold / share[index]))
    return found


class Rounding:
    """How often each image comes in an epoch: its factor, rounded up with the probability of its fraction.

    A pure function of (seed, epoch, image id), whatever other images there are.

    Args:
      seed: not negative, < 2**32.
      factors: >= 1.
      ids: of the images; whole numbers that differ.
    """

    def __init__(
        self,
        seed: int,
        factors: Float[np.ndarray, "N"],
        ids: Sequence[int] | Int[np.ndarray, "N"],
    ):
        self._seed = seed
        self._whole = np.floor(factors).astype(np.int64)
        self._drawn = np.flatnonzero(factors > self._whole)
        self._fraction = (factors - self._whole)[self._drawn]
        self._ids = np.asarray(ids, np.int64)[self._drawn].astype(np.uint64)

    @property
    def exact(self) -> bool:
        """Whether there is nothing to round, so that all epochs are alike."""
        return not self._drawn.size

    def copies(self, epoch: int) -> Int[np.ndarray, "N"]:
        """The number of copies of each image, at least 1."""
        found = self._whole.copy()
        (key,) = np.random.SeedSequence([self._seed, epoch, _STREAM]).generate_state(1, np.uint64)
        found[self._drawn] += _uniform(_mixed(self._ids) ^ key) < self._fraction
        return found


def _uniform(x: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1) out of 64-bit ones: their upper 53 bits, mixed."""
    return (_mixed(x) >> np.uint64(11)) * 2.0**-53


def _mixed(x: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit numbers that looks random (SplitMix64, Steele et al. 2014); wraps around."""
    x = x + np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
