"""Grain's worker processes, so run that they end with their parent, and start fast."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.spawn
import os
import shutil
import signal
import threading
from typing import Any

import cv2
import grain
from absl import flags, logging

_POLL_SECONDS = 1.0
_SHM = "/dev/shm"
_SMALL = 1 << 16  # bytes; smaller arrays go through the pipe
_GRAIN = "grain-process-prefetch"  # how grain names its workers


def iterate(dataset: grain.MapDataset, workers: int, prefetch: int) -> Any:
    """Iterates a grain data set in order, with `workers` processes that keep `prefetch` elements ready each."""
    if not flags.FLAGS.is_parsed():  # grain reads absl's flags, also in programs that have none
        flags.FLAGS.mark_as_parsed()
    elements = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=1))
    if not workers:
        return iter(elements)
    _start_without_main()
    options = grain.experimental.DatasetOptions(min_shm_size=_shm_threshold())
    elements = grain.experimental.WithOptionsIterDataset(elements, options)
    return iter(
        elements.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch),
            worker_init_fn=_init_worker,
        )
    )


def _shm_threshold() -> int:
    try:
        free = shutil.disk_usage(_SHM).free
    except OSError:
        free = 0
    if free < 1 << 30:
        logging.warning(
            "%s has %d MiB free: batches go through pipes, which is slower. In Docker use --shm-size=8g.",
            _SHM,
            free >> 20,
        )
        return 1 << 62
    return _SMALL


def _init_worker(index: int, count: int) -> None:
    del index, count  # grain's signature
    # Ctrl-C reaches the whole group; the parent decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    # A damaged file is reported by its name, once.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    # The sentinel tells at once, unless some other child of the parent keeps it open.
    while os.getppid() == parent.pid:
        if multiprocessing.connection.wait([parent.sentinel], timeout=_POLL_SECONDS):
            break
    os._exit(1)


def _start_without_main() -> None:
    """Keeps grain's workers from importing the main program.

    They need nothing from it, it may be heavy (train.py imports all of the training), and a script without
    `if __name__ == "__main__"` would run a second time in each worker.
    """
    original = multiprocessing.spawn.get_preparation_data
    if getattr(original, "jaxseg", False):
        return

    def preparation_data(name: str) -> dict[str, Any]:
        data = original(name)
        if name.startswith(_GRAIN):
            data.pop("init_main_from_name", None)
            data.pop("init_main_from_path", None)
        return data

    preparation_data.jaxseg = True
    multiprocessing.spawn.get_preparation_data = preparation_data
