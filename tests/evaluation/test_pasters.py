"""Masks pasted by processes: the same results in the same order, and what happens when one is killed."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from jaxseg.data.pipeline import HostBatch
from jaxseg.evaluation import inference, pasters
from jaxseg.evaluation import results as results_lib
from jaxseg.structures import Batch, Detections

_ROOT = pathlib.Path(__file__).parents[2]
_SIZE = (96, 128)
# Neither absl's app.run nor a guard around the main program.
_SCRIPT = """
import sys
import numpy as np
from jaxseg.evaluation import pasters
image = dict(boxes=np.array([[2.0, 3, 60, 50]]), scores=np.ones(1), classes=np.zeros(1, int),
             masks=np.ones((1, 28, 28), np.float32), image_id=1, image_size=(64, 64),
             original_size=(64, 64), category_ids=[7])
pool = pasters.Pasters(2)
assert not {"jax", "flax", "grain"} & set(sys.modules)
assert [r["category_id"] for r in pool.submit(lambda: [image]).result()] == [7]
print(*pool.pids, flush=True)
while sys.argv[1] != "exit":
    pool.submit(lambda: [image] * 50).result()
"""


def host_batches(count, *, images=2, found=6, seed=0):
    """Batches of `images` images, the last entry of each only filling up, with what a network finds in them: objects
    of three classes that stick out of the image here and there, and nothing at all in the second batch.
    """
    rng = np.random.default_rng(seed)
    size = np.full((images, 2), _SIZE, np.float32)
    batches, detections = [], []
    for i in range(count):
        corner = rng.uniform(-20, 100, (images, found, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(0, 80, corner.shape)], -1)
        detections.append(
            Detections(
                boxes=boxes.astype(np.float32),
                scores=rng.random((images, found), np.float32),
                classes=rng.integers(0, 3, (images, found)).astype(np.int32),
                valid=(rng.random((images, found)) < 0.8) & (i != 1),
                masks=rng.random((images, found, 28, 28), np.float32),
            )
        )
        ids = np.arange(images) + 10 * i
        ids[-1] = -1
        batch = Batch(np.zeros((images, 1, 1, 3), np.uint8), size, ids >= 0)
        batches.append(HostBatch(batch, ids, (2 * size).astype(np.int32)))
    return batches, detections


def collect(count=5, **options):
    batches, detections = host_batches(count)
    found = iter(detections)
    categories = [SimpleNamespace(id=4), None, SimpleNamespace(id=2)]
    return inference.run(lambda batch: next(found), batches, categories, **options)


def slow_results(count=5):
    """One mask at a time over the whole image, encoded by pycocotools; bilinear weights of each pixel by a loop."""
    results = []
    for host_batch, found in zip(*host_batches(count), strict=True):
        for b, image_id in enumerate(host_batch.image_ids.tolist()):
            for d in np.flatnonzero(found.valid[b]) if image_id >= 0 else ():
                category = (4, None, 2)[found.classes[b, d]]
                box = found.boxes[b, d].astype(np.float64) * 2
                x0, y0, x1, y1 = np.clip(box, 0, np.array((_SIZE[1], _SIZE[0]) * 2) * 2).tolist()
                if category is None or x1 <= x0 or y1 <= y0:
                    continue
                height, width = 2 * _SIZE[0], 2 * _SIZE[1]
                columns = weights(box[0], box[2], width)
                mask = columns @ found.masks[b, d].T @ weights(box[1], box[3], height).T >= 0.5
                rle = mask_utils.encode(np.asfortranarray(mask.T, np.uint8))
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": category,
                        "score": round(float(found.scores[b, d]), 7),
                        "bbox": [round(v, 3) for v in (x0, y0, x1 - x0, y1 - y0)],
                        "segmentation": {
                            "size": [height, width],
                            "counts": rle["counts"].decode(),
                        },
                    }
                )
    return results


def weights(low, high, pixels, cells=28):
    step = (high - low) / cells
    out = np.zeros((pixels, cells), np.float32)
    for pixel in range(pixels):
        position = np.float32((pixel + 0.5 - low) / step - 0.5)
        for cell in range(cells):
            out[pixel, cell] = max(np.float32(1) - abs(position - np.float32(cell)), 0)
    return out


def test_the_results_are_those_of_one_mask_at_a_time_in_order_whatever_the_processes():
    expected = slow_results()
    assert len(expected) > 10
    assert collect(workers=0) == expected
    assert collect(workers=2) == expected


def test_no_batches_and_no_detections_give_no_results():
    assert collect(0, workers=1) == []
    batches, detections = host_batches(2)
    assert inference.run(lambda batch: detections[1], batches[:1], [None], workers=0) == []


def test_only_so_many_batches_wait():
    batches, detections = host_batches(12)
    taken, done, most = 0, 0, 0
    found = iter(detections)

    def counted():
        nonlocal taken, most
        for batch in batches:
            taken += 1
            most = max(most, taken - done)
            yield batch

    def advance(images):
        nonlocal done
        assert images == 1
        done += 1

    categories = [SimpleNamespace(id=i) for i in range(3)]
    inference.run(lambda _: next(found), counted(), categories, workers=0, advance=advance)
    assert done == 12 and most == 3


@pytest.fixture
def started(monkeypatch):
    """The Pasters that are made."""
    made, original = [], pasters.Pasters

    def make(workers):
        made.append(original(workers))
        return made[-1]

    monkeypatch.setattr(pasters, "Pasters", make)
    return made


def test_a_killed_worker_is_told_soon_and_the_others_end(started):
    batches, detections = host_batches(400)
    found = iter(detections)
    pids, killed = [], []

    def killing():
        for i, batch in enumerate(batches):
            if i == 20:
                pids.extend(started[0].pids)
                os.kill(pids[0], signal.SIGKILL)
                killed.append(time.monotonic())
            yield batch

    categories = [SimpleNamespace(id=i) for i in range(3)]
    with pytest.raises(pasters.WorkerDied, match=r"SIGKILL .*memory.*config\.eval\.workers"):
        inference.run(lambda _: next(found), killing(), categories, workers=2)
    assert time.monotonic() - killed[0] < 30
    assert next(found, None) is not None  # before all batches were through
    assert not any(map(_alive, pids))


def test_a_fault_in_a_worker_is_the_fault_that_it_is_in_this_process(started):
    for workers in (0, 1):
        with pytest.raises(ValueError, match="paste='nearest': allowed are continuous"):
            collect(workers=workers, paste="nearest")
    assert not any(_alive(pid) for pool in started for pid in pool.pids)


def test_a_worker_that_cannot_start_is_named(monkeypatch, capfd):
    monkeypatch.setattr(pasters, "_PROGRAM", "import no_such_module")
    with pytest.raises(pasters.WorkerDied, match="exit status 1; if it said why"):
        collect(workers=1)
    assert "no_such_module" in capfd.readouterr().err


@pytest.mark.skipif(not pathlib.Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGKILL to all", "exit"])
def test_workers_end_with_their_parent_and_share_no_memory(tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), how],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        if how != "exit":
            assert not any("/dev/shm/" in _maps(pid) for pid in pids)
            kill = os.killpg if how.endswith("all") else os.kill
            kill(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    end = time.monotonic() + 30
    while any(map(_alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(_alive, pids))


def test_the_number_of_workers_is_checked_and_chosen_by_the_cores(monkeypatch):
    for bad in (-2, 1.0, "2", True, None):
        with pytest.raises(ValueError, match=r"config\.eval\.workers="):
            pasters.count(bad)
    assert [pasters.count(n) for n in (0, 1, 7)] == [0, 1, 7]
    for cores, workers in ((1, 1), (2, 2), (4, 4), (64, 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        assert pasters.count(pasters.AUTOMATIC) == workers


def test_both_ways_to_paste_are_the_same_alone_and_together():
    rng = np.random.default_rng(3)
    masks = rng.random((50, 14, 14), np.float32)
    corner = rng.uniform(-30, 90, (50, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(-5, 90, (50, 2))], 1)
    boxes[:3] = [[0, 0, np.inf, 5], [np.nan, 0, 5, 5], [1e12, 0, 2e12, 9]]
    for paste in results_lib.PASTES:
        together = list(results_lib._regions(masks, boxes, _SIZE, 0.5, paste))
        for mask, box, (x, y, region) in zip(masks, boxes, together, strict=True):
            alone = results_lib.paste_region(mask, box, _SIZE, 0.5, paste)
            assert (alone[0], alone[1]) == (x, y)
            np.testing.assert_array_equal(alone[2], region)


def _alive(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _maps(pid: int) -> str:
    return pathlib.Path(f"/proc/{pid}/maps").read_text()
