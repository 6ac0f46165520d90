"""How the processes of a run are found; runs of several are in tests/integration."""

import socket
import threading

import jax
import pytest

from jaxseg import exits
from jaxseg.training import processes
from jaxseg.training.processes import Flags

SLURM = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}


@pytest.fixture
def asked(monkeypatch):
    """What jax is asked for."""
    found = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: found.append(options))
    return found


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(num_processes=2), "--coordinator_address and --process_id must be given, too"),
        (dict(coordinator_address="a:1", process_id=0), "--num_processes must be given, too"),
        (dict(coordinator_address="a", num_processes=2, process_id=0), "must be HOST:PORT"),
        (dict(coordinator_address="a:99999", num_processes=2, process_id=0), "must be HOST:PORT"),
        (dict(coordinator_address="a:1", num_processes=0, process_id=0), "must be at least 1"),
        (dict(coordinator_address="a:1", num_processes=2, process_id=2), "must be from 0 to 1"),
        (dict(start_timeout=0), "--start_timeout=0: seconds, at least 1"),
    ],
)
def test_flags_that_do_not_fit_are_a_mistake(asked, given, message):
    with pytest.raises(ValueError, match=message):
        processes.initialize(Flags(**given), {})
    assert not asked


def test_flags_are_passed_on_with_bounds_below_a_minute(asked):
    processes.initialize(Flags("10.0.0.1:8476", 4, 3), SLURM)
    (options,) = asked
    assert options["coordinator_address"] == "10.0.0.1:8476"
    assert (options["num_processes"], options["process_id"]) == (4, 3)
    assert options["cluster_detection_method"] == "deactivate"
    assert options["heartbeat_timeout_seconds"] < 60
    assert jax.config.jax_cpu_collectives_implementation == "gloo"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_is_taken_is_a_mistake_of_the_first_process(asked, host):
    with socket.create_server((host, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen on port {port} .*Take another one"):
            processes.initialize(Flags(f"localhost:{port}", 2, 0), {})
        assert not asked
        processes.initialize(Flags(f"localhost:{port}", 2, 1), {})  # where it should be taken
    processes.initialize(Flags(f"localhost:{port}", 2, 0), {})
    assert len(asked) == 2


def test_processes_that_do_not_meet_say_so_in_time(monkeypatch, capsys):
    """As jax waits in C++ and then ends the process without Python, the end here is one of the process, too."""
    ended = threading.Event()
    left = []
    monkeypatch.setattr(processes, "_leave", lambda status: (left.append(status), ended.set()))
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: ended.wait(30))
    processes.initialize(Flags("10.0.0.1:8476", 4, 3, start_timeout=1), {})
    assert left == [exits.LOST]
    assert "did not meet at 10.0.0.1:8476 within 1 s (exit 75)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "environment, scheduler",
    [
        ({}, None),
        (SLURM, "Slurm"),
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),  # sbatch's script
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI"),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}, None),
    ],
)
def test_schedulers_are_detected_by_their_variables(asked, environment, scheduler):
    assert processes.detected(environment) == scheduler
    processes.initialize(Flags(), environment)
    assert len(asked) == (scheduler is not None)
    assert not any("num_processes" in options for options in asked)


def test_a_scheduler_that_says_too_little_is_told_with_the_way_out(monkeypatch):
    def initialize(**options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ValueError, match=r"Open MPI started this.*Give --coordinator_address"):
        processes.initialize(Flags(), {"OMPI_COMM_WORLD_SIZE": "2"})
    processes.initialize(Flags(), {"TPU_WORKER_HOSTNAMES": "a"})  # one machine with TPUs


@pytest.mark.parametrize(
    "message, lost",
    [
        ("FAILED_PRECONDITION: Gloo all-reduce failed: Connection closed by peer", True),
        ("UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats)", True),
        ("INTERNAL: NCCL operation ncclAllReduce failed: remote process exited", True),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes", False),
    ],
)
def test_the_error_of_a_lost_process_is_told_from_others(message, lost):
    assert processes.lost_another(jax.errors.JaxRuntimeError(message)) == lost
    assert not processes.lost_another(ValueError(message))


def test_one_process_ends_as_it_always_did_and_after_a_mistake_at_once(capsys, monkeypatch):
    left = []
    monkeypatch.setattr(processes, "_leave", left.append)
    for error in (SystemExit(143), OSError("gloo"), KeyboardInterrupt()):
        with pytest.raises(type(error)), processes.ending_together():
            raise error
    assert not left
    with pytest.raises(SystemExit), processes.ending_together():
        raise SystemExit(exits.MISTAKE)
    assert left == [exits.MISTAKE]
    assert capsys.readouterr() == ("", "")
