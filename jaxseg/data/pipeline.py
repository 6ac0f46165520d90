"""Batches for training and evaluation: grain executes the plan, in this process or in workers."""

from __future__ import annotations

import dataclasses
import gc
import json
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
from absl import logging
from jaxtyping import Int

from jaxseg.data import batches as batches_lib
from jaxseg.data import geometry, plan, repeats, source, views, workers
from jaxseg.data import problems as problems_lib


@dataclasses.dataclass(frozen=True)
class HostBatch:
    """This host's part of a global batch (in evaluation a batch of its own), and where it came from."""

    # structures.Batch of NumPy arrays; in evaluation without targets, or structures.Views where several are asked for
    batch: Any
    image_ids: Int[np.ndarray, "B"]  # int64; -1: an entry that only fills up the batch
    original_size: Int[np.ndarray, "B 2"]  # int32 (height, width) as the annotations say
    problems: tuple[tuple[str, str], ...] = ()  # (reason, file) of images that could not be read


class Batches(Iterator[HostBatch]):
    """An iterator of HostBatch with workers behind it; close it, or use it in a `with` statement.

    The workers start at once, so that they are ready when the model is compiled. If one dies, all are started again
    and go on with the same batches. `problems` counts images that could not be read: each has its place in the batch
    with `valid` False.
    """

    def __init__(self, dataset: grain.MapDataset, data: Any):
        self.problems = problems_lib.Problems()
        self._dataset, self._workers, self._prefetch = dataset, data.workers, data.prefetch
        self._taken = 0
        self._last_death = -1  # how many batches had been taken
        self._live: list[Any] = []  # empty: closed
        # At the interpreter's end grain could not close itself any more.
        self._finalizer = weakref.finalize(self, _end, self._live)
        self._start()

    def _start(self) -> None:
        """Starts workers on the batches that have not been taken."""
        rest = self._dataset.slice(slice(self._taken, None)) if self._taken else self._dataset
        self._live.append(workers.iterate(rest, self._workers, self._prefetch))
        self._first: list[Any] = []
        self._starter = None
        if self._workers and len(rest):
            arguments = (self._live[0], self._first)
            self._starter = threading.Thread(target=_take_first, args=arguments, daemon=True)
            self._starter.start()

    def __len__(self) -> int:
        """The number of batches, from the first on."""
        return len(self._dataset)

    def __next__(self) -> HostBatch:
        """The next batch.

        Raises:
          ChildProcessError: a worker died, and the ones that were started in its place did so at the same batch.
        """
        if not self._live:
            raise ValueError("These batches were closed.")
        while True:
            try:
                raw = self._raw()
                break
            except ChildProcessError as death:
                self._start_again(death)
        self._taken += 1
        return self._host_batch(raw)

    def _raw(self) -> dict[str, Any]:
        if self._starter is not None:
            self._starter.join()
            self._starter = None
        raw = self._first.pop() if self._first else _take(self._live[0])
        if isinstance(raw, BaseException):
            raise raw
        return raw

    def _start_again(self, death: ChildProcessError) -> None:
        if self._last_death == self._taken:
            raise ChildProcessError(
                f"{death} It was the second one at the same batch, so that another start would not help. Is there "
                f"enough memory for data.workers={self._workers} processes of data.prefetch={self._prefetch} batches "
                "each? With data.workers=0 the error itself comes up. The same command goes on from the newest "
                "checkpoint."
            ) from death
        logging.warning("%s All %d are started again; no batch is lost.", death, self._workers)
        self._last_death = self._taken
        _end(self._live)
        self._start()

    def _host_batch(self, raw: dict[str, Any]) -> HostBatch:
        from jaxseg import structures  # here, so that workers need no flax

        problems = tuple(map(tuple, json.loads(raw["problems"])))
        for reason, path in problems:
            if not self.problems.counts[reason]:
                logging.warning("%s: %s. It is left out; further ones are counted.", path, reason)
            self.problems.add(reason, path)
        targets = None
        if "boxes" in raw:
            names = [field.name for field in dataclasses.fields(structures.Targets)]
            keys = {name: "object_valid" if name == "valid" else name for name in names}
            fields = {name: raw[key] for name, key in keys.items() if key in raw}
            targets = structures.Targets(**fields)
        flips = tuple(map(bool, raw.get("flips", (False,))))
        shown = []
        for number in range(len(flips)):
            images, size = (raw[batches_lib.view_key(k, number)] for k in batches_lib.OF_A_VIEW)
            shown.append(structures.Batch(images, size, raw["valid"], targets))
        batch = shown[0] if len(flips) == 1 else structures.Views(tuple(shown), flips)
        return HostBatch(batch, raw["image_ids"], raw["original_size"], problems)

    def close(self) -> None:
        """Ends the workers. Further calls do nothing."""
        self._finalizer()
        if self._starter is not None:
            self._starter.join(timeout=30)
            self._starter = None
        self._first.clear()
        if self.problems.total():
            logging.warning("Left out: %s", self.problems.summary())
            self.problems = problems_lib.Problems()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _take(iterator: Iterator[Any]) -> dict[str, Any]:
    """The next batch in memory of its own: what the worker shared is freed at once."""
    raw = next(iterator)
    return {key: np.array(v) if key != "problems" else v for key, v in raw.items()}


def _take_first(iterator: Iterator[Any], first: list[Any]) -> None:
    try:
        first.append(_take(iterator))
    except BaseException as error:  # raised where the batch is asked for
        first.append(error)


def _end(live: list[Any]) -> None:
    live.pop().close()
    gc.collect()  # grain's ended threads hold shared memory in cycles of frames and exceptions


def train_batches(
    config: Any,
    source_: source.Source,
    *,
    first_step: int,
    last_step: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Training batches of the steps first_step, ..., last_step - 1.

    The same steps give the same batches, whatever the first step, the number of workers, or the number of hosts.

    Args:
      config: the whole config; its seed, data and train.batch_size (over all hosts) count.
      source_: from `sources.open_source`.
      process_index, process_count: this host among the hosts.

    Raises:
      ValueError: values in `config.data` without sense, nothing to train on, or a batch that the hosts cannot share.
    """
    data = config.data
    geometry.check(data)
    _check_share("train.batch_size", config.train.batch_size, process_count)
    members = training_images(data, source_)
    _warn_of_many(data, source_, members)
    sizes = [(source_.infos[i].height, source_.infos[i].width) for i in members]
    buckets = [
        geometry.choose_bucket(geometry.largest(data.resize, size), data.buckets) for size in sizes
    ]
    steps = _train_plan(config, source_, members, buckets)
    loader = batches_lib.Train(
        source_,
        batches_lib.Options.of(data),
        config.seed,
        np.array(members),
        steps,
        range(first_step, last_step),
        (process_index, process_count),
    )
    return Batches(grain.MapDataset.source(loader), data)


def _train_plan(
    config: Any, source_: source.Source, members: list[int], buckets: list[int]
) -> plan.TrainPlan:
    threshold = config.data.get("repeat_threshold", 0.0)  # runs of earlier versions have none
    arguments = (config.seed, buckets, config.train.batch_size)
    if not threshold:
        return plan.TrainPlan(*arguments)
    factors = repeats.of_source(source_, members, threshold)
    return plan.TrainPlan(*arguments, factors, [source_.infos[i].id for i in members])


def eval_batches(
    config: Any,
    source_: source.Source,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Every image once, bucket by bucket; a bucket's last batch is filled up with entries of `valid` False.

    Of several processes each has its share of the batches, see `plan.share`: some may have one more than others, or
    none at all.

    Args:
      config: the whole config; its data counts, eval.tta (in how many views each image is shown), and eval.max_images
        (the first so many; 0 is all).
      batch_size: images in a batch, all of them in one process.
      process_index, process_count: this process among the processes.

    Raises:
      ValueError: values in `config.data` or `config.eval.tta` without sense, no images, or a batch size below 1.
    """
    data = config.data
    geometry.check(data)
    shown = views.of(config)
    if batch_size < 1:
        raise ValueError(f"eval.batch_size={batch_size}: must be at least 1.")
    if not len(source_):
        raise ValueError("The split to evaluate has no images.")
    count = min(config.eval.max_images or len(source_), len(source_))
    sizes = [(info.height, info.width) for info in source_.infos[:count]]
    batches = plan.eval_plan([views.bucket_of(config, size) for size in sizes], batch_size)
    batches = plan.share(batches, process_index, process_count)
    loader = batches_lib.Eval(source_, batches_lib.Options.of(data), batches, shown)
    return Batches(grain.MapDataset.source(loader), data)


def training_images(data: Any, source_: source.Source) -> list[int]:
    """Positions of the images to train on: all with a file, or (data.keep_empty False) those with objects too.

    It only looks at `infos`, so that it can be asked early.

    Raises:
      ValueError: there are none, or the split has no annotations.
    """
    if not source_.annotated:
        raise ValueError(
            "The training split has no annotations; set data.train.annotations to a file with the key 'annotations'."
        )
    there = [i for i, info in enumerate(source_.infos) if not info.missing]
    members = [i for i in there if data.keep_empty or source_.infos[i].num_objects]
    if members:
        return members
    name = f"The training set (split train of {getattr(source_, 'path', data.source)}) is empty: "
    if not len(source_):
        raise ValueError(f"{name}the list 'images' has no entries.")
    if data.keep_empty:
        raise ValueError(f"{name}the files of all {len(source_)} images are missing.")
    skipped = source_.problems.summary() if source_.problems.total() else "none"
    raise ValueError(
        f"{name}of {len(source_)} images {len(source_) - len(there)} have no file and {len(there)} have no objects "
        f"(objects skipped: {skipped}). Mend the annotations, or set data.keep_empty=True to train on images without "
        "objects."
    )


def _check_share(key: str, batch_size: int, process_count: int) -> None:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"{key}={batch_size}: must be a positive multiple of the {process_count} hosts."
        )


def _warn_of_many(data: Any, source_: source.Source, members: list[int]) -> None:
    counts = np.array([source_.infos[i].num_objects for i in members])
    over = counts[counts > data.max_instances]
    if over.size:
        logging.warning(
            "%d images have more than data.max_instances=%d objects (up to %d): the %d smallest are no targets.",
            over.size,
            data.max_instances,
            over.max(),
            int((over - data.max_instances).sum()),
        )
