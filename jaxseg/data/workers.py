"""Grain's worker processes, so run that they end with their parent, and start fast."""

from __future__ import annotations

import collections
import contextlib
import glob
import multiprocessing
import multiprocessing.connection
import multiprocessing.spawn
import multiprocessing.util
import os
import select
import shutil
import threading
import time
from collections.abc import Iterable
from multiprocessing import resource_tracker
from typing import Any

import cv2
import grain
from absl import flags, logging

from jaxseg.data import worker_deaths

_POLL_SECONDS = 1.0
_TRACKER_MILLISECONDS = 1000
_END_SECONDS = 10.0  # more than noticing the parent's end and freeing what was shared takes
_SHM = "/dev/shm"
_SMALL = 1 << 16  # bytes; smaller arrays go through the pipe
_REMEMBERED = 1000  # blocks; more are never on their way at once
_GRAIN = "grain-process-prefetch"  # how grain names its workers


def iterate(dataset: grain.MapDataset, workers: int, prefetch: int) -> Any:
    """Iterates a grain data set in order, with `workers` processes that keep `prefetch` elements ready each.

    Its `next` raises ChildProcessError when one of them died.
    """
    if not flags.FLAGS.is_parsed():  # grain reads absl's flags, also in programs that have none
        flags.FLAGS.mark_as_parsed()
    elements = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=1))
    if not workers:
        return iter(elements)
    _start_without_main()
    worker_deaths.watch()
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
    # Signals to the parent's group, as Ctrl-C sends them, are the parent's business: it ends its workers.
    os.setsid()
    cv2.setNumThreads(0)
    # A damaged file is reported by its name, once.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    blocks: collections.deque[str] = collections.deque(maxlen=_REMEMBERED)
    gate = threading.Lock()
    register = resource_tracker.register

    def remember(name: str, kind: str) -> None:
        if kind == "shared_memory":
            blocks.append(name)
        with gate:
            register(name, kind)

    resource_tracker.register = remember
    tracker = _tracker()
    ending = threading.Thread(target=_end_with_parent, args=(blocks, gate, tracker), daemon=True)
    ending.start()

    def await_ending() -> None:
        # Grain's loop may fail first, at a tracker that was killed with the parent: nobody else would free.
        if not _lives(tracker, milliseconds=0):
            ending.join(_END_SECONDS)

    multiprocessing.util.Finalize(None, await_ending, exitpriority=100)


def _end_with_parent(
    blocks: Iterable[str], gate: threading.Lock, tracker: tuple[int | None, int | None]
) -> None:
    parent = multiprocessing.parent_process()
    # The sentinel tells at once, unless some other child of the parent keeps it open.
    while os.getppid() == parent.pid:
        if multiprocessing.connection.wait([parent.sentinel], timeout=_POLL_SECONDS):
            break
    time.sleep(0.1)  # a signal to the whole group may be on its way to the tracker
    with gate:  # meanwhile nothing is shared that is not in `blocks`
        time.sleep(0.1)
        # A busy machine takes its time to end what it was told to kill.
        if not _lives(tracker, _TRACKER_MILLISECONDS):
            _free(list(blocks))
            os._exit(1)
    time.sleep(0.1)  # what waited at the gate reaches the tracker
    os._exit(1)


def _tracker() -> tuple[int | None, int | None]:
    """File descriptor and process id of the resource tracker (no id: it is the parent's)."""
    tracker = resource_tracker._resource_tracker
    return getattr(tracker, "_fd", None), getattr(tracker, "_pid", None)


def _lives(tracker: tuple[int | None, int | None], milliseconds: int) -> bool:
    """Whether the resource tracker, which frees what a killed program left, has not ended in so long."""
    if tracker != _tracker():  # another was started in its place
        return False
    if tracker[0] is None:
        return True
    poll = select.poll()
    poll.register(tracker[0], 0)  # only tells that nobody reads any more
    return not poll.poll(milliseconds)


def _free(blocks: Iterable[str]) -> None:
    """Frees what this worker shared, and the semaphores that it shares with its parent."""
    # A semaphore is mapped under another name than its file's, but it is the same inode.
    with open("/proc/self/maps") as file:
        mapped = {line.split()[4] for line in file if f" {_SHM}/" in line}
    paths = [os.path.join(_SHM, name.lstrip("/")) for name in blocks]
    for path in [*paths, *glob.glob(f"{_SHM}/sem.mp-*")]:
        with contextlib.suppress(OSError):
            if path in paths or str(os.stat(path).st_ino) in mapped:
                os.unlink(path)


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
