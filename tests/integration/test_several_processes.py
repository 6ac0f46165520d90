"""Runs of two processes on loopback, whole and with one of them killed, failing or told to end."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest
import runs

from jaxseg import exits
from jaxseg.training import metrics

ROOT = pathlib.Path(__file__).parents[2]
BOUND = 60  # seconds that a process may live on without the others


def launch(folder, *settings, send="", flags=(), grace=BOUND):
    """(exit status, output) of a run of two processes; the launcher kills what outlives the bound."""
    environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))
    if send:
        environment["JAXSEG_SEND"] = send
    launcher = [sys.executable, "-m", "jaxseg.launch", "--processes=2", f"--grace={grace}", *flags]
    done = subprocess.run(
        [*launcher, "tests/training/several.py", str(folder), "train.steps=12", *settings],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
    )
    return done.returncode, done.stdout


def saved(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())


def assert_within_bound(output):
    assert "still running; they are killed" not in output, output


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    status, output = launch(folder)
    assert status == 0, output
    return folder


def test_sigterm_to_one_process_saves_once_and_ends_both(tmp_path):
    """A long run without validations: the signal comes in its midst."""
    settings = ("train.steps=20000", "train.eval_every=0", "train.save_every=20000")
    status, output = launch(tmp_path, *settings, send="1 SIGTERM step 2/")
    assert status == exits.PREEMPTED, output
    (step,) = saved(tmp_path)
    assert f"[0] Stopped by SIGTERM: step {step} is saved" in output
    assert "[1] several.py: process 1 of 2 ends (exit 143) at SIGTERM" in output
    assert_within_bound(output)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["device"]["processes"] == 2


LONG_VALIDATION = ("data.shapes.val=4000", "eval.batch_size=1", "train.eval_every=6")


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_process_killed_in_a_validation_ends_the_other_within_the_bound(tmp_path, process):
    status, output = launch(tmp_path, *LONG_VALIDATION, send=f"{process} SIGKILL step 6/")
    assert status == 128 + signal.SIGKILL, output
    assert_within_bound(output)
    assert not metrics.read(tmp_path, "val") and saved(tmp_path) in ([], [3])


@pytest.mark.slow
def test_sigterm_in_a_validation_drops_it_and_saves(tmp_path):
    status, output = launch(tmp_path, *LONG_VALIDATION, send="1 SIGTERM step 6/")
    assert status == exits.PREEMPTED, output
    assert "[0] Stopped by SIGTERM: step 6 is saved" in output
    assert saved(tmp_path)[-1] == 6 and not metrics.read(tmp_path, "val")
    assert_within_bound(output)
    status, output = launch(tmp_path, *LONG_VALIDATION, "eval.max_images=2")
    assert status == 0 and "Resumed from step 6" in output, output
    assert [line["step"] for line in metrics.read(tmp_path, "val")] == [6, 12]


@pytest.mark.slow
@pytest.mark.parametrize(
    "process, name", [(1, "SIGTERM"), (0, "SIGTERM"), (1, "SIGINT"), (0, "LAUNCHER")]
)
def test_a_run_of_two_that_was_told_to_end_continues_to_the_same_bits(
    tmp_path, whole, process, name
):
    status, output = launch(tmp_path, send=f"{process} {name} step 4/")
    assert status == exits.PREEMPTED, output
    step = saved(tmp_path)[-1]
    assert step < 12 and f"step {step} is saved" in output
    status, output = launch(tmp_path)
    assert status == 0 and f"Resumed from step {step}" in output, output
    runs.assert_same(tmp_path, whole)


@pytest.mark.slow
def test_the_launcher_restarts_to_the_same_bits(tmp_path, whole):
    """The signal comes at step 4, which is not reached a second time."""
    status, output = launch(tmp_path, send="1 SIGTERM step 4/", flags=["--restarts=2"])
    assert status == 0 and "starts again (restart 1 of 2)" in output, output
    runs.assert_same(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_killed_process_ends_the_other_within_the_bound(tmp_path, whole, process):
    status, output = launch(tmp_path, send=f"{process} SIGKILL step 8/")
    assert status == 128 + signal.SIGKILL, output
    assert f"process {process} of 2 was killed by SIGKILL (exit 137)" in output
    assert_within_bound(output)
    other = 1 - process
    ended = re.search(rf"process {other} of 2 (.*)", output)
    assert "exit 75" in ended[1] or "SIGABRT (exit 134)" in ended[1], output
    assert f"[{other}] several.py: process {other} of 2 ends (exit 75): another" in output or (
        "jax" in output and "fatal error" in output
    )
    status, output = launch(tmp_path)
    assert status == 0, output
    runs.assert_same(tmp_path, whole)


@pytest.mark.slow
def test_a_work_directory_that_is_not_shared_is_a_mistake(tmp_path):
    status, output = launch(tmp_path / "{process}")
    assert status == exits.MISTAKE, output
    message = "Not all processes see the same work directory"
    assert all(f"[{i}] several.py: {message} {tmp_path / str(i)}" in output for i in (0, 1))
    assert not list((tmp_path / "0").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["step 4/", "Data: val"])
def test_a_process_that_fails_ends_the_other(tmp_path, moment):
    """Also before it has asked for devices, for which all of them are needed."""
    status, output = launch(tmp_path, send=f"1 FAIL {moment}")
    assert status == exits.MISTAKE, output
    assert "[1] several.py: it failed" in output
    assert "process 0 of 2" in output
    assert_within_bound(output)


def slurm(process, job):
    return dict(
        SLURM_JOB_ID=str(job),
        SLURM_STEP_NODELIST="localhost",
        SLURM_NTASKS="2",
        SLURM_PROCID=str(process),
        SLURM_LOCALID=str(process),
    )


def open_mpi_4(process, job):
    return dict(
        OMPI_MCA_orte_hnp_uri=f"{job * 4096}.0;tcp://127.0.0.1:1",
        OMPI_COMM_WORLD_SIZE="2",
        OMPI_COMM_WORLD_RANK=str(process),
        OMPI_COMM_WORLD_LOCAL_RANK=str(process),
    )


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", [slurm, open_mpi_4])
def test_a_scheduler_s_variables_are_enough(tmp_path, scheduler):
    """The port that jax takes follows from the number of the job."""
    program = [sys.executable, "tests/training/several.py", str(tmp_path), "train.steps=3"]
    common = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))
    processes = [
        subprocess.Popen(
            program,
            cwd=ROOT,
            env={**common, **scheduler(process, os.getpid() % 4096)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in (0, 1)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["device"]["processes"] == 2 and saved(tmp_path) == [3]


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_process_alone_gives_up(tmp_path, process):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = [f"--coordinator_address={address}", "--num_processes=2", f"--process_id={process}"]
    program = [sys.executable, "tests/training/several.py", str(tmp_path), "train.steps=1"]
    done = subprocess.run(
        [*program, *flags, "--start_timeout=3"],
        cwd=ROOT,
        env=dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=2 * BOUND,
        check=False,
    )
    assert done.returncode == exits.LOST, done.stderr
    assert f"did not meet at {address} within 3 s" in done.stderr
