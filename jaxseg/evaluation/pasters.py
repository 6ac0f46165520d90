"""Processes that paste masks, beside the one that feeds the device.

Pasting holds Python's lock for much of its time: threads that do it hold up the dispatch of the next batch. Each
`Worker` is a fresh interpreter that imports NumPy and pycocotools (a quarter of a second), and neither jax nor the main
program: it needs no absl, and no `if __name__ == "__main__"` in a script. It reads what it has to paste from a pipe and
writes results to another. Nothing is shared, so nothing is left behind, however a process ends; a worker whose parent
is gone reads the end of its pipe, and ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing.spawn
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from jaxseg.evaluation.results import image_results

AUTOMATIC = -1
_MOST = 4  # paste more masks a second than any device has found yet
_WAIT_SECONDS = 5.0
_POLL_SECONDS = 1.0
# One thread each: workers are as many as there are cores for them.
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_PROGRAM = "import sys; sys.path[:] = {path!r}; from jaxseg.evaluation import pasters; pasters.serve({parent})"


class WorkerDied(RuntimeError):
    """A process that pastes masks ended before its time."""


def check(workers: Any) -> None:
    """Checks `config.eval.workers`.

    Raises:
      ValueError: it is no whole number of at least -1.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < AUTOMATIC:
        raise ValueError(
            f"config.eval.workers={workers!r}: a number of processes that paste masks is needed, 0 to paste in this "
            f"process, or {AUTOMATIC} for as many as there are cores, at most {_MOST}."
        )


def count(workers: int) -> int:
    """The number of processes for `config.eval.workers`; with -1 that of the cores, at most 4. None is kept free for
    the main process: that mostly waits for the device, and pastes nothing itself.
    """
    check(workers)
    if workers != AUTOMATIC:
        return workers
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(_MOST, cores)


class Pasters:
    """Pastes batches in the order in which they come free; use it in a `with` statement.

    `submit` returns at once. Whoever calls it bounds how much waits (`inference.run`).
    """

    def __init__(self, workers: int):
        """Args:
        workers: processes; 0: a thread of this process.

        Raises:
          OSError: a process could not be started.
        """
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._workers: list[Worker] = []
        self._pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="paste")
        try:
            for _ in range(workers):
                self._workers.append(Worker())
                self._idle.put(self._workers[-1])
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self._workers]

    def submit(self, prepare: Any, **options: Any) -> Future[list[dict]]:
        """Pastes what `prepare()` gives, which is called in a thread: arguments of `results.image_results` for each
        image. `options` are those of all images.

        The future's error is `WorkerDied`, or what pasting or `prepare` raised.
        """
        return self._pool.submit(self._paste, prepare, options)

    def _paste(self, prepare: Any, options: dict[str, Any]) -> list[dict]:
        images = prepare()
        if not self._workers:
            return _results(images, options)
        worker = self._idle.get()  # as many threads as workers: one is free
        try:
            return worker(images, options)
        finally:
            self._idle.put(worker)  # also a dead one: whoever waits is told the same

    def close(self) -> None:
        """Ends the processes, whatever they do."""
        for worker in self._workers:
            worker.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> Pasters:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Worker:
    """One process, for one thread at a time."""

    def __init__(self):
        program = _PROGRAM.format(path=sys.path, parent=os.getpid())
        self._process = subprocess.Popen(
            [multiprocessing.spawn.get_executable(), "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | dict.fromkeys(_THREADS, "1"),
            start_new_session=True,  # Ctrl-C is the parent's business: it ends its workers
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def __call__(self, images: Sequence[dict], options: dict[str, Any]) -> list[dict]:
        """The results of some images.

        Raises:
          WorkerDied: the process ended.
          Exception: what was raised there.
        """
        try:
            pickle.dump((images, options), self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            error, found = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as broken:
            raise WorkerDied(self._end()) from broken
        if error is not None:
            raise error
        return found

    def _end(self) -> str:
        """How the process ended, in words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_WAIT_SECONDS)
        code = self._process.returncode
        if code is None:
            self.kill()
            how = "gave no reply that can be read"
        elif code < 0:
            how = f"was ended by {_signal_name(-code)}"
            if code == -signal.SIGKILL:
                how += " (by the system, if memory ran out)"
        else:
            how = f"ended with exit status {code}; if it said why, that stands above"
        return (
            f"A process that pastes masks (pid {self.pid}) {how}. Evaluate again with a smaller config.eval.workers; "
            "0 pastes in the main process."
        )

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """After `kill`, and when no thread uses the pipes any more."""
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what could not be sent
                pipe.close()


def serve(parent: int) -> None:
    """What a worker does: pastes what comes through standard input until that ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with contextlib.suppress(EOFError, pickle.UnpicklingError, OSError):  # the parent is gone
        for images, options in _requests():
            try:
                reply = None, _results(images, options)
            except Exception as error:
                error.add_note(f"In a process that pastes masks: {traceback.format_exc()}")
                reply = error, None
            pickle.dump(reply, replies, protocol=pickle.HIGHEST_PROTOCOL)
            replies.flush()
    os._exit(0)  # without another try to write what nobody reads


def _requests() -> Iterator[tuple[Sequence[dict], dict[str, Any]]]:
    while True:
        yield pickle.load(sys.stdin.buffer)


def _results(images: Sequence[dict], options: dict[str, Any]) -> list[dict]:
    return [result for image in images for result in image_results(**image, **options)]


def _end_with(parent: int) -> None:
    """Ends this process with its parent also where a fork of that keeps the pipe open."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
