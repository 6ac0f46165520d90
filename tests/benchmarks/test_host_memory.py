"""What processes hold, and whether it grows."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import host_memory_table, processes

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="Linux only")


def test_memory_files_and_children_are_seen():
    code = "x = b'x' * (64 << 20); print('ready', flush=True); input()"
    inner = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", inner], **pipes) as outer:
        assert outer.stdout.readline() == b"ready\n"
        child, grandchild = outer.pid, processes.descendants(outer.pid)
        assert child in processes.descendants(os.getpid()) and len(grandchild) == 1
        held = processes.held(grandchild[0])
        assert 64 << 20 < held.anonymous < held.resident < 128 << 20
        assert held.threads == 1 and held.open_files >= 3
        outer.communicate(b"\n")
    assert processes.held(child) == (0, 0, 0, 0) and processes.descendants(child) == []


def samples(leak):
    steps = np.arange(50, 10_001, 50)
    noise = np.random.default_rng(0).integers(-(1 << 18), 1 << 18, steps.shape)
    start = (1 << 28) * (1 - np.exp(-steps / 300))  # caches that fill
    main = (start + noise + leak * steps).astype(int)
    main[120:] -= 1 << 27  # given back all at once
    main[-1] //= 2  # a sample that falls into the end
    flat = np.full(steps.shape, 7)
    memory = {"main_bytes": main, "worker_bytes": main // 2, "main_resident_bytes": 2 * main}
    return {"step": steps, **memory, "open_files": flat, "threads": flat}


@pytest.mark.parametrize("leak", [0, 1000])
def test_a_leak_is_told_from_noise_and_warm_up(leak):
    found = host_memory_table.fits(samples(leak), warm_up=2000)
    assert found["main_bytes"]["slope_per_step"] == pytest.approx(leak, abs=60)
    assert found["open_files"]["slope_per_step"] == pytest.approx(0, abs=1e-9)
    assert host_memory_table.fits(samples(leak), warm_up=9_900) == {}


def test_table_and_picture(tmp_path):
    facts = dict.fromkeys(("cpu", "cores", "date", "commit", "jax", "grain"), "x")
    result = facts | {"seconds": 200.0, "warm_up": 2000}
    for warm_up in (2000, 10_000):
        of = samples(1000)
        result |= {"samples": of, "fits": host_memory_table.fits(of, warm_up)}
        text = host_memory_table.table(result)
        assert "10,000 steps in 200 s" in text
        host_memory_table.draw(str(tmp_path / "plot.png"), result)
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
        assert ("| threads | 7 | 7 | 7 to 7 |" in text) == (warm_up == 2000)
    assert "fewer than three samples" in text


@pytest.mark.slow
def test_command(tmp_path):
    out = tmp_path / "out.json"
    short = ["--steps=60", "--every=10", "--warm_up=20", "--set=train.eval_every=30"]
    command = [sys.executable, "-m", "benchmarks.host_memory", *short, f"--json={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())["samples"]
    assert found["step"][0] == 10 and min(found["main_bytes"]) > 1 << 26
    assert max(found["worker_bytes"]) > 1 << 24
    wrong = [*command[:-1], "--set=model.no_such_key=1"]
    done = subprocess.run(wrong, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "no_such_key" in done.stderr
