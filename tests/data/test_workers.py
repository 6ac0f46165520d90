"""Worker processes for real: order, plain scripts, and their end."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxseg.data import pipeline, sources
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
config.data.buckets = ((256, 256),)  # big enough to travel in shared memory
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


def _blocks() -> set[str]:
    return {entry.name for entry in _SHM.iterdir()}


def _await(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


@pytest.mark.skipif(not _SHM.is_dir(), reason="needs /proc and /dev/shm")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "exit"])
def test_workers_and_shared_memory_end_with_their_parent(tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    before = _blocks()
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(script), how]
    with subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        children = _descendants(process.pid)
        if how != "exit":
            assert len(children) >= 3  # two workers and the resource tracker
            assert any(name.startswith("psm_") for name in _blocks() - before)
            time.sleep(0.2)
            blocks = _blocks() - before
            process.send_signal(getattr(signal, how))
        else:
            blocks = _blocks() - before
        process.wait(timeout=40)
    assert _await(lambda: not any(map(_alive, children)), 15)
    assert _await(lambda: not blocks & _blocks(), 15)


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


def _command(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
