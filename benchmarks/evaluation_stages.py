"""The stages of `benchmarks.evaluation`, each for a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from benchmarks.evaluation_data import Data


def paste(data: Data, workers: int, path: str) -> dict[str, Any]:
    """Pastes, encodes and saves; the device is one that has found everything already."""
    from jaxseg.evaluation import inference, pasters
    from jaxseg.evaluation import results as results_lib

    categories = [SimpleNamespace(id=k + 1) for k in range(data.classes)]
    detections: list[Any] = []
    generating = 0.0

    def batches() -> Iterator[Any]:
        nonlocal generating
        made = data.batches()
        while True:
            begin = time.perf_counter()
            pair = next(made, None)
            generating += time.perf_counter() - begin
            if pair is None:
                return
            detections.append(pair[1])
            yield pair[0]

    inference.run(lambda _: detections.pop(), [], categories, workers=0)  # everything is imported
    before = start_peak()
    with measured_workers(pasters) as (peaks, cpu):
        begin, own = time.perf_counter(), time.process_time()
        results = inference.run(lambda _: detections.pop(), batches(), categories, workers=workers)
        pasted, own = time.perf_counter() - begin, time.process_time() - own
    peak = peak_mib()
    begin = time.perf_counter()
    results_lib.save(path, results)
    saved = time.perf_counter() - begin
    return {
        "workers": pasters.count(workers),
        "masks": len(results),
        "seconds": pasted,
        "of_which_generating": generating,
        "cpu_seconds": own,
        "workers_cpu_seconds": cpu,
        "masks_per_second": len(results) / pasted,
        "save_seconds": saved,
        "results_mib": pathlib.Path(path).stat().st_size / 2**20,
        "before_mib": before,
        "peak_mib": peak,
        "peak_with_save_mib": peak_mib(),
        "workers_peak_mib": peaks,
    }


def evaluate(data: Data, evaluator: str, iou_type: str, path: str) -> dict[str, Any]:
    """Loads the results, and measures AP."""
    from jaxseg.evaluation import coco

    truth = data.ground_truth()
    begin = time.perf_counter()
    results = json.loads(pathlib.Path(path).read_text())
    loaded = time.perf_counter() - begin
    before = start_peak()
    with method_seconds(evaluator) as seconds:
        begin, own = time.perf_counter(), time.process_time()
        metrics = coco.evaluate(
            truth, results, iou_type, evaluator=evaluator, max_detections=max(11, data.detections)
        )
        total, own = time.perf_counter() - begin, time.process_time() - own
    return {
        "evaluator": evaluator,
        "iou_type": iou_type,
        "AP": metrics.summary["AP"],
        "load_seconds": loaded,
        "seconds": total,
        "cpu_seconds": own,
        "prepare_seconds": total - sum(seconds.values()),
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "before_mib": before,
        "peak_mib": peak_mib(),
    }


@contextlib.contextmanager
def method_seconds(evaluator: str) -> Iterator[dict[str, float]]:
    """Seconds in the evaluator's matching and accumulating."""
    if evaluator == "pycocotools":
        from pycocotools.cocoeval import COCOeval as cls
    else:
        from faster_coco_eval import COCOeval_faster as cls
    seconds = {"match": 0.0, "accumulate": 0.0}
    originals = {"match": cls.evaluate, "accumulate": cls.accumulate}

    def timed(name: str):
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return originals[name](*args, **kwargs)
            finally:
                seconds[name] += time.perf_counter() - begin

        return call

    cls.evaluate, cls.accumulate = timed("match"), timed("accumulate")
    try:
        yield seconds
    finally:
        cls.evaluate, cls.accumulate = originals["match"], originals["accumulate"]


@contextlib.contextmanager
def measured_workers(pasters: Any) -> Iterator[tuple[list[float], list[float]]]:
    """The peak memory in MiB, and the seconds of a core, of each process that pastes, as they are when they end."""
    peaks: list[float] = []
    seconds: list[float] = []
    original = pasters.Pasters

    class Measured(original):
        def close(self) -> None:
            with contextlib.suppress(
                OSError, ValueError
            ):  # one was killed, which is told elsewhere
                peaks.extend(peak_mib(pid) for pid in self.pids)
                seconds.extend(cpu_seconds(pid) for pid in self.pids)
            super().close()

    pasters.Pasters = Measured
    try:
        yield peaks, seconds
    finally:
        pasters.Pasters = original


def cpu_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_peak() -> float:
    """What this process holds now, in MiB, from which on the peak counts."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status("VmRSS", os.getpid())


def peak_mib(pid: int | None = None) -> float:
    """The most that a process held. Not getrusage's: that counts what its parent held before it, too."""
    return _status("VmHWM", pid or os.getpid())


def _status(key: str, pid: int) -> float:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/{pid}/status has no {key}: Linux is needed.")
