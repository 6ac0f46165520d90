"""A process of several is killed while they save: the checkpoint before is used."""

import os
import signal
import socket
import subprocess
import sys

import pytest
import runs
import standin

BOUND = 120  # seconds until the other has ended; its heartbeats are counted as missing after 10


def start(folder, output, kill=""):
    """Two processes; the first, which finishes checkpoints, is killed before a file gets the name `kill`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = standin.__file__.replace("standin.py", "together.py")
    started = []
    for process in (0, 1):
        environment = {**os.environ, "PYTHONPATH": str(runs.ROOT), "JAX_PLATFORMS": "cpu"}
        if kill and not process:
            environment["STANDIN_KILL"] = kill
        command = [sys.executable, script, str(process), "2", port, str(folder)]
        with open(output / f"{process}.txt", "w") as file:
            started.append(subprocess.Popen(command, env=environment, stdout=file, stderr=file))
    return started


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["/6.orbax-checkpoint-tmp/variables", "/checkpoints/6"])
def test_a_kill_of_one_of_two_in_mid_save_continues_from_the_save_before(tmp_path, moment):
    folder = tmp_path / "run"
    pair = start(folder, tmp_path, kill=moment)
    try:
        assert pair[0].wait(timeout=400) == -signal.SIGKILL, (tmp_path / "0.txt").read_text()
        assert pair[1].wait(timeout=BOUND) != 0
    finally:
        for process in pair:
            process.kill()
    left = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert left == ["3", "6.orbax-checkpoint-tmp"]
    for process in start(folder, tmp_path):
        assert process.wait(timeout=400) == 0, (tmp_path / "0.txt").read_text()
    told = " ".join((tmp_path / "0.txt").read_text().split())
    assert "Resumed from step 3" in told
    assert "The save of checkpoint 6 was cut short; what there is of it is removed." in told
    assert not list((folder / "checkpoints").glob("*tmp*"))
    assert {"9", "12"} <= {path.name for path in (folder / "checkpoints").iterdir()}
