"""Which images make up which batch: a pure function of (seed, epoch, image sizes, repeat factors, global batch).

The whole state of the data is one integer, the global step. Every host computes the same plan and takes its slice.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int

from jaxseg.data import repeats as repeats_lib

_T = TypeVar("_T")
_SHUFFLE = 0x5348  # keeps the stream of the plan apart from those of the images


@dataclasses.dataclass(frozen=True)
class Planned:
    """One global batch. `images` are positions in the source, -1 for an entry that only fills up.

    `repeats` is the number of the copy, from 0: an image has several in an epoch where its repeat factor says so, and
    where a bucket's last batch was filled by starting over. It takes part in the image's randomness, so that a batch
    holds no twins.
    """

    bucket: int
    images: Int[np.ndarray, "B"]
    repeats: Int[np.ndarray, "B"]

    def slice(self, index: int, count: int) -> Planned:
        """The part of host `index` of `count`; the batch must be divisible by `count`."""
        size = len(self.images) // count
        part = slice(index * size, (index + 1) * size)
        return Planned(self.bucket, self.images[part], self.repeats[part])


def batch_plan(
    seed: int,
    epoch: int,
    buckets: Int[np.ndarray, "N"],
    global_batch: int,
    copies: Int[np.ndarray, "N"] | None = None,
) -> list[Planned]:
    """The batches of one epoch: each of one bucket, in random order; every image comes at least `copies` times.

    A last incomplete batch of a bucket is filled by starting over within the bucket.

    Args:
      seed, epoch: not negative.
      buckets: the bucket of each image.
      global_batch: images in a batch, over all hosts.
      copies: how often each image comes in this epoch, at least once; None: once.
    """
    if copies is None:
        copies = np.ones(len(buckets), np.int64)
    images = np.repeat(np.arange(len(buckets)), copies)
    first = np.cumsum(copies) - copies
    number = np.arange(len(images)) - first[images]  # of the copy
    rng = np.random.Generator(np.random.Philox(seed=[seed, epoch, _SHUFFLE]))
    order = rng.permutation(len(images))
    batches = []
    for bucket in np.unique(buckets):
        members = order[buckets[images[order]] == bucket]
        slots = np.arange(-(-len(members) // global_batch) * global_batch)
        chosen = members[slots % len(members)]
        again = number[chosen] + slots // len(members) * copies[images[chosen]]
        rows = zip(
            images[chosen].reshape(-1, global_batch), again.reshape(-1, global_batch), strict=True
        )
        batches += [Planned(int(bucket), i, r) for i, r in rows]
    return [batches[i] for i in rng.permutation(len(batches))]


class TrainPlan:
    """The endless sequence of training batches, addressed by the global step.

    Args:
      seed, buckets, global_batch: see `batch_plan`.
      factors: repeat factor of each image, >= 1, see `repeats.factors`: how often it comes in an epoch, on average.
        Epochs then have different lengths. None: every image once.
      ids: the images' ids, which the rounding of their factors depends on; with `factors`.
    """

    def __init__(
        self,
        seed: int,
        buckets: Sequence[int] | np.ndarray,
        global_batch: int,
        factors: Float[np.ndarray, "N"] | None = None,
        ids: Sequence[int] | np.ndarray | None = None,
    ):
        self._arguments = (seed, np.asarray(buckets), global_batch, factors, ids)
        self._rounding = None if factors is None else repeats_lib.Rounding(seed, factors, ids)
        self._ends = [0]  # the first step of each epoch that was asked for, and of the one after
        self._epoch = functools.lru_cache(maxsize=2)(self._plan)

    def __reduce__(self):
        return TrainPlan, self._arguments

    def _plan(self, epoch: int) -> list[Planned]:
        seed, buckets, global_batch, *_ = self._arguments
        copies = None if self._rounding is None else self._rounding.copies(epoch)
        return batch_plan(seed, epoch, buckets, global_batch, copies)

    def length(self, epoch: int) -> int:
        """The number of batches of an epoch; the plan itself is not made for it."""
        _, buckets, global_batch, *_ = self._arguments
        if self._rounding is None:
            counts = np.bincount(buckets)
        else:
            counts = np.bincount(buckets, self._rounding.copies(epoch)).astype(np.int64)
        return int(np.sum(-(-counts // global_batch)))

    @functools.cached_property
    def _constant(self) -> int | None:
        """The number of batches of every epoch; None where it differs."""
        return self.length(0) if self._rounding is None or self._rounding.exact else None

    def place(self, step: int) -> tuple[int, int]:
        """(epoch, position in it) of a global step, counted from 0."""
        if self._constant:
            return divmod(step, self._constant)
        while self._ends[-1] <= step:
            self._ends.append(self._ends[-1] + self.length(len(self._ends) - 1))
        epoch = bisect.bisect_right(self._ends, step) - 1
        return epoch, step - self._ends[epoch]

    def batch_at(self, step: int) -> tuple[int, Planned]:
        """(epoch, batch) of a global step, counted from 0."""
        epoch, position = self.place(step)
        return epoch, self._epoch(epoch)[position]


def eval_plan(buckets: Sequence[int] | np.ndarray, batch_size: int) -> list[Planned]:
    """Every image once, bucket by bucket, in order; a bucket's last batch is filled up with -1."""
    buckets = np.asarray(buckets, np.int64)
    batches = []
    for bucket in np.unique(buckets):
        members = np.flatnonzero(buckets == bucket)
        images = np.full(-(-len(members) // batch_size) * batch_size, -1)
        images[: len(members)] = members
        for part in images.reshape(-1, batch_size):
            batches.append(Planned(int(bucket), part, np.zeros_like(part)))
    return batches


def share(batches: Sequence[_T], index: int, count: int) -> Sequence[_T]:
    """The batches of process `index` of `count`: every count-th one, whole.

    A batch is not cut, so that it is computed with the same neighbours, to the same bits, by any number of processes;
    and there are no more entries that only fill up. Neighbours in the plan, of the same shape, go to different
    processes, so that all have about as much to do.
    """
    return batches[index::count]


def joined(shares: Sequence[Sequence[_T]]) -> list[_T]:
    """What belongs to the batches of each `share`, in the order of the batches.

    Raises:
      ValueError: these are not the shares of any number of batches: one has too many or too few.
    """
    count, total = len(shares), sum(map(len, shares))
    lengths = [len(share(range(total), i, count)) for i in range(count)]
    if lengths != list(map(len, shares)):
        raise ValueError(
            f"{total} batches give {count} processes {lengths}, and they have {list(map(len, shares))}."
        )
    return [shares[k % count][k // count] for k in range(total)]


def image_rng(seed: int, epoch: int, image_id: int, repeat: int = 0) -> np.random.Generator:
    """The randomness of one image in one epoch, whatever batch, worker or host it is in."""
    return np.random.Generator(np.random.Philox(seed=[seed, epoch, image_id % 2**64, repeat]))
