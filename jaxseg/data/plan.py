"""Which images make up which batch: a pure function of (seed, epoch, image sizes, global batch).

The whole state of the data is one integer, the global step. Every host computes the same plan and takes its slice.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

_SHUFFLE = 0x5348  # keeps the stream of the plan apart from those of the images


@dataclasses.dataclass(frozen=True)
class Planned:
    """One global batch. `images` are positions in the source, -1 for an entry that only fills up.

    `repeats` counts how often the image was met before in its epoch: not 0 only where a bucket's last batch was
    filled by starting over. It takes part in the image's randomness, so that a filled batch holds no twins.
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
    seed: int, epoch: int, buckets: Int[np.ndarray, "N"], global_batch: int
) -> list[Planned]:
    """The batches of one epoch: each of one bucket, in random order; every image comes at least once.

    A last incomplete batch of a bucket is filled by starting over within the bucket.

    Args:
      seed, epoch: not negative.
      buckets: the bucket of each image.
      global_batch: images in a batch, over all hosts.
    """
    rng = np.random.Generator(np.random.Philox(seed=[seed, epoch, _SHUFFLE]))
    order = rng.permutation(len(buckets))
    batches = []
    for bucket in np.unique(buckets):
        members = order[buckets[order] == bucket]
        slots = np.arange(-(-len(members) // global_batch) * global_batch)
        images = members[slots % len(members)].reshape(-1, global_batch)
        repeats = (slots // len(members)).reshape(-1, global_batch)
        batches += [Planned(int(bucket), i, r) for i, r in zip(images, repeats, strict=True)]
    return [batches[i] for i in rng.permutation(len(batches))]


class TrainPlan:
    """The endless sequence of training batches, addressed by the global step.

    Args:
      seed, buckets, global_batch: see `batch_plan`.
    """

    def __init__(self, seed: int, buckets: Sequence[int] | np.ndarray, global_batch: int):
        self._arguments = (seed, np.asarray(buckets), global_batch)
        counts = np.bincount(self._arguments[1])
        self.batches_per_epoch = int(np.sum(-(-counts // global_batch)))
        self._epoch = functools.lru_cache(maxsize=2)(self._plan)

    def __reduce__(self):
        return TrainPlan, self._arguments

    def _plan(self, epoch: int) -> list[Planned]:
        seed, buckets, global_batch = self._arguments
        return batch_plan(seed, epoch, buckets, global_batch)

    def batch_at(self, step: int) -> tuple[int, Planned]:
        """(epoch, batch) of a global step, counted from 0."""
        epoch, position = divmod(step, self.batches_per_epoch)
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


def image_rng(seed: int, epoch: int, image_id: int, repeat: int = 0) -> np.random.Generator:
    """The randomness of one image in one epoch, whatever batch, worker or host it is in."""
    return np.random.Generator(np.random.Philox(seed=[seed, epoch, image_id % 2**64, repeat]))
