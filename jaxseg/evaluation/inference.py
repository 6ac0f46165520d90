"""Runs a detector over images and evaluates it; pasting masks overlaps with the work of the device."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich import progress as rich_progress

from jaxseg.data import pipeline, plan
from jaxseg.evaluation import exchange, measure, pasters
from jaxseg.evaluation.report import Report
from jaxseg.evaluation.results import host_images
from jaxseg.structures import Batch, Detections

Problems = list[str]  # why images of a batch could not be read


def run(
    detect: Callable[[Batch], Detections],
    batches: Iterable[pipeline.HostBatch],
    categories: Sequence[Any],
    *,
    mask_threshold: float = 0.5,
    paste: str = "continuous",
    workers: int = pasters.AUTOMATIC,
    advance: Callable[[int], None] | None = None,
) -> list[dict]:
    """Detects in all batches and returns the COCO results in the order of the images; arguments as of `by_batch`."""
    options = dict(mask_threshold=mask_threshold, paste=paste, workers=workers, advance=advance)
    found = by_batch(detect, batches, categories, **options)
    return list(itertools.chain.from_iterable(found))


def by_batch(
    detect: Callable[[Batch], Detections],
    batches: Iterable[pipeline.HostBatch],
    categories: Sequence[Any],
    *,
    mask_threshold: float = 0.5,
    paste: str = "continuous",
    workers: int = pasters.AUTOMATIC,
    advance: Callable[[int], None] | None = None,
) -> list[list[dict]]:
    """Detects in all batches and returns the COCO results of each, in the order of its images.

    Args:
      detect: a jitted function; it is called without waiting, so that the device has its next batch
        while the last one comes to the host and its masks are pasted.
      batches: `HostBatch`es, e.g. of `jaxseg.data.pipeline.eval_batches`.
      categories: the data set's categories in the order of the class indices; `id` is used. None: a class that the
        data set does not have; what is found of it is left out.
      mask_threshold: pixels with at least this probability belong to an object.
      paste: how masks are pasted, see `results.paste_region`.
      workers: processes that paste, see `pasters.count`; 0: a thread of this process. The results are the same. Twice
        as many batches wait at most, whatever the device's speed.
      advance: called with the number of images after each batch that is done.

    Returns:
      COCO result dicts, see `results.detections_to_results`.

    Raises:
      ValueError: a number of workers that is not allowed, or an unknown way to paste.
      WorkerDied: a process that pastes was killed.
    """
    workers = pasters.count(workers)
    category_ids = [None if category is None else category.id for category in categories]
    results: list[list[dict]] = []
    pending: deque = deque()

    def collect() -> None:
        images, future = pending.popleft()
        results.append(future.result())
        if advance is not None:
            advance(images)

    with pasters.Pasters(workers) as pool:
        for host_batch in batches:
            prepare = functools.partial(
                _to_paste, host_batch, detect(host_batch.batch), category_ids
            )
            images = int(np.count_nonzero(host_batch.image_ids >= 0))
            future = pool.submit(prepare, mask_threshold=mask_threshold, paste=paste)
            pending.append((images, future))
            for _, future in pending:
                if future.done():
                    future.result()  # raises what went wrong there: it need not wait for its turn
            if len(pending) > 2 * max(1, workers):
                collect()
        while pending:
            collect()
    return results


def _to_paste(
    host_batch: pipeline.HostBatch, detections: Detections, category_ids: Sequence[int | None]
) -> list[dict[str, Any]]:
    """Brings a batch's detections to the host; see `results.host_images`."""
    return host_images(
        jax.device_get(detections),
        np.where(host_batch.batch.valid, host_batch.image_ids, -1),
        host_batch.batch.image_size,
        host_batch.original_size,
        category_ids,
    )


def evaluate_source(
    detect: Callable[[Batch], Detections],
    source: Any,
    config: ConfigDict,
    *,
    categories: Sequence[Any] | None = None,
    split: str | None = None,
    progress: bool = True,
    group: exchange.Group | None = None,
) -> Report | None:
    """Detects in a whole source and measures box and mask AP if it is annotated, by the protocol of `config.eval`.

    Several processes share the batches (`plan.share`), each with a `detect` of its own devices, workers and all; the
    first one gets what they found, in the order and to the bits of one process, and measures.

    Args:
      detect: as in `run`.
      source: a `jaxseg.data` source.
      config: the whole config; `eval` and of `model.test` how masks are pasted are used here.
      categories: as in `run`, where the model's class indices are not in the source's order.
      split: the name that the report gives to the source; default `config.eval.split`.
      progress: shows a bar with the time left on the console: of this process's share.
      group: the processes that share the work, each of which calls this function within `group.together()`; None: this
        one does all of it.

    Returns:
      A Report; None in all processes of the group but the first. Images that cannot be
      read are counted in `report.skipped`, and their objects count as missed.

    Raises:
      ValueError: an option of `config.eval` is not allowed, or the protocol needs what the source's annotations lack
        (before anything is run); or the processes see different images.
      PeerFailed: another process of the group failed.
    """
    used = measure.for_source(config.eval, source)
    pasters.check(_workers(config))
    group = group or exchange.alone()
    infos = source.infos[: config.eval.max_images or None]
    batches = pipeline.eval_batches(
        config,
        source,
        batch_size=config.eval.batch_size,
        process_index=group.index,
        process_count=group.count,
    )
    total = min(len(infos), len(batches) * config.eval.batch_size)
    categories = source.categories if categories is None else categories
    start = time.perf_counter()
    with contextlib.closing(batches), _bar(total, progress) as advance:
        group.agree("The images to evaluate", _fingerprint(infos, config.eval.batch_size))
        share = _detect_share(detect, batches, categories, config, advance, group)
    shares = group.gather(share, _encode, _decode)
    seconds = time.perf_counter() - start
    if shares is None:
        return None
    results, skipped = [], Counter(source.problems.counts)
    for of_batch, reasons in plan.joined(shares):
        results += of_batch
        skipped.update(reasons)
    report = Report(
        split=split or config.eval.split,
        images=len(infos),
        seconds=seconds,
        skipped=dict(skipped),
        results=results,
    )
    if source.annotated:
        report.measure(_about(source.coco(), infos), used)
    return report


def _detect_share(
    detect: Callable[[Batch], Detections],
    batches: Iterable[pipeline.HostBatch],
    categories: Sequence[Any],
    config: ConfigDict,
    advance: Callable[[int], None],
    group: exchange.Group,
) -> list[tuple[list[dict], Problems]]:
    """What is found in each of this process's batches, and why images of it could not be read."""

    def done(images: int) -> None:
        advance(images)
        group.check()

    problems: list[Problems] = []
    found = by_batch(
        detect,
        _noting(batches, problems),
        categories,
        mask_threshold=config.model.test.mask_threshold,
        paste=config.model.test.paste,
        workers=_workers(config),
        advance=done,
    )
    return list(zip(found, problems, strict=True))


def _workers(config: ConfigDict) -> int:
    return config.eval.get("workers", pasters.AUTOMATIC)  # runs of earlier versions have none


def _fingerprint(infos: Sequence[Any], batch_size: int) -> str:
    """The same where the same images make up the same batches."""
    listed = [(info.id, info.height, info.width) for info in infos]
    return f"{len(infos)} in batches of {batch_size} (checksum {exchange.checksum(listed)})"


def _encode(share: Sequence[tuple[list[dict], Problems]]) -> bytes:
    """Results and problems of batches as JSON, a line each: numbers keep their bits."""
    return b"\n".join(json.dumps(entry).encode() for entry in share)


def _decode(data: bytes) -> list[tuple[list[dict], Problems]]:
    return [tuple(json.loads(line)) for line in data.splitlines()]


def _about(truth: dict, infos: Sequence[Any]) -> dict:
    """The part of a COCO ground truth that is about some images."""
    ids = {info.id for info in infos}
    return {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in ids],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in ids],
    }


def _noting(batches: Iterable, problems: list[Problems]) -> Iterator:
    for host_batch in batches:
        problems.append([reason for reason, _ in host_batch.problems])
        yield host_batch


@contextlib.contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("images"),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left:"),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, disable=not shown, transient=True) as bar:
        task = bar.add_task("Detecting", total=total)
        yield lambda images: bar.advance(task, images)
