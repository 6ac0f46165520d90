"""Worker processes for real: order, plain scripts, and their end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxseg.data import pipeline, shapes, sources, workers
from tests.data import coco_folder

_ROOT = pathlib.Path(__file__).parents[2]
_SHM = pathlib.Path("/dev/shm")
# Neither absl's app.run nor a guard around the main program.
_SCRIPT = """
import sys, time
from tests.data import coco_folder
from jaxseg.data import pipeline, sources
config = coco_folder.shapes(64)
config.data.workers = 2
config.data.buckets = ((int(sys.argv[2]), 352),)  # big enough to travel in shared memory
source = sources.open_source(config.data, "train")
batches = pipeline.train_batches(config, source, first_step=0, last_step=10_000)
for _ in range(3):
    batch = next(batches)
print("ready", flush=True)
if sys.argv[1] == "exit":
    sys.exit()
while True:
    time.sleep(0.1)
"""

# A worker whose own loop ends as soon as the tracker is gone: before it noticed that its parent is.
_HASTY = """
import multiprocessing, select, sys, time
from multiprocessing import shared_memory
from jaxseg.data import workers

def work():
    workers._init_worker(0, 1)
    block = shared_memory.SharedMemory(create=True, size=int(sys.argv[1]))
    print("ready", flush=True)
    poll = select.poll()
    poll.register(workers._tracker()[0], 0)
    poll.poll()

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work).start()
    time.sleep(600)
"""


def _descendants(parent: int) -> list[int]:
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found += [int(entry.name), *_descendants(int(entry.name))]
    return found


def _alive(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _blocks(size: int) -> set[str]:
    """Shared memory of exactly `size` bytes: other programs have blocks there, too."""
    found = set()
    for path in _SHM.glob("psm_*"):
        with contextlib.suppress(OSError):
            if path.stat().st_size == size:
                found.add(str(path))
    return found


def _semaphores(pid: int) -> set[str]:
    """Those that the process has mapped, under another name than their file's, but with its inode."""
    lines = pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
    mapped = {line.split()[4] for line in lines if " /dev/shm/" in line}
    found = set()
    for path in _SHM.glob("sem.mp-*"):
        with contextlib.suppress(OSError):
            if str(path.stat().st_ino) in mapped:
                found.add(str(path))
    return found


def _await(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


@pytest.mark.skipif(not _SHM.is_dir(), reason="needs /proc and /dev/shm")
@pytest.mark.parametrize(
    ("how", "height"),
    [
        ("SIGKILL", 224),
        ("SIGKILL to all", 256),
        pytest.param("SIGTERM", 288, marks=pytest.mark.slow),
        ("exit", 320),
    ],
)
def test_workers_and_shared_memory_end_with_their_parent(tmp_path, how, height):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    size = 4 * height * 352 * 3  # of no config: a training run on this machine has blocks, too
    before = _blocks(size)
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    options = dict(cwd=_ROOT, env=environment, stdout=subprocess.PIPE, start_new_session=True)
    command = [sys.executable, str(script), how, str(height)]
    process = subprocess.Popen(command, **options)
    try:
        assert process.stdout.readline() == b"ready\n"
        children, semaphores = [], set()
        if how != "exit":
            children = _descendants(process.pid)
            semaphores = _semaphores(process.pid)
            assert len(children) >= 3 and semaphores  # two workers and the resource tracker
            assert _await(lambda: _blocks(size) - before, 5)
            kill = os.killpg if how.endswith("all") else os.kill
            kill(process.pid, getattr(signal, how.split()[0]))
        process.wait(timeout=40)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert _await(lambda: not any(map(_alive, children)), 15)
    assert _await(lambda: not _blocks(size) - before, 15)
    assert _await(lambda: not any(map(os.path.exists, semaphores)), 15)


@pytest.mark.skipif(not _SHM.is_dir(), reason="needs /proc and /dev/shm")
def test_a_worker_that_ends_before_its_parent_is_missed_frees_what_it_shared(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_HASTY)
    size = 4097 * 1024
    before = _blocks(size)
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(script), str(size)]
    options = dict(env=environment, stdout=subprocess.PIPE, start_new_session=True)
    with subprocess.Popen(command, **options) as process:
        assert process.stdout.readline() == b"ready\n"
        assert _blocks(size) - before
        children = _descendants(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
    assert _await(lambda: not any(map(_alive, children)), 15)
    assert not _blocks(size) - before


def test_workers_change_nothing_and_close_cleanly():
    config = coco_folder.shapes()
    source = sources.open_source(config.data, "train")
    with pipeline.train_batches(config, source, first_step=2, last_step=7) as batches:
        expected = list(batches)
    config.data.workers = 2
    before = set(_descendants(os.getpid()))
    with pipeline.train_batches(config, source, first_step=2, last_step=7) as batches:
        found = list(batches)
        workers = set(_descendants(os.getpid())) - before
    for a, b in zip(expected, found, strict=True):
        assert a.image_ids.tolist() == b.image_ids.tolist()
        np.testing.assert_array_equal(a.batch.images, b.batch.images)
        np.testing.assert_array_equal(a.batch.targets.masks, b.batch.targets.masks)
        np.testing.assert_array_equal(a.batch.targets.boxes, b.batch.targets.boxes)
    assert not [pid for pid in workers if _alive(pid) and "prefetch" in _command(pid)]


class Deadly(shapes.Shapes):
    """Kills whoever reads its images."""

    def image(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def _within(seconds: int):
    """Raises TimeoutError in what takes longer."""

    def late(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _prefetching() -> list[multiprocessing.Process]:
    children = multiprocessing.active_children()
    return [child for child in children if child.name.startswith(workers._GRAIN)]


def test_a_worker_that_is_killed_with_half_a_batch_in_its_pipe_is_replaced(monkeypatch, caplog):
    # As where there is little shared memory: a batch is larger than a pipe, and its worker waits in the middle of it.
    monkeypatch.setattr(workers, "_shm_threshold", lambda: 1 << 62)
    config = coco_folder.shapes()
    config.data.update(buckets=((160, 160),), prefetch=1)
    source = sources.open_source(config.data, "train")
    with pipeline.train_batches(config, source, first_step=0, last_step=8) as batches:
        expected = [batch.image_ids.tolist() for batch in batches]
    config.data.workers = 1
    with (
        _within(400),
        pipeline.train_batches(config, source, first_step=0, last_step=8) as batches,
    ):
        found = [next(batches).image_ids.tolist()]
        (worker,) = _prefetching()
        time.sleep(0.5)
        worker.kill()
        found += [batch.image_ids.tolist() for batch in batches]
    assert found == expected
    assert "was killed (SIGKILL), as the system does when memory runs out" in caplog.text


def test_workers_that_die_of_the_same_batch_end_the_run():
    config = coco_folder.shapes()
    config.data.workers = 1
    source = Deadly(12, (48, 64), (1, 4), 0, "train")
    with (
        _within(400),
        pipeline.train_batches(config, source, first_step=0, last_step=8) as batches,
        pytest.raises(ChildProcessError, match=r"the second one at the same batch.*data.workers=0"),
    ):
        next(batches)
    assert not _prefetching()


def _command(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
