"""The processes of a run: how they find each other, and how all of them end when one is gone.

The scheduler starts one process for each host (or GPU); jax's coordination service, which lives in process 0, joins
them. Every process sends it heartbeats. When they stay away, jax ends the others, by SIGABRT and with its reason on
stderr; where Python learns of it first, from a collective operation that failed, the exit status is `exits.LOST`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import importlib.util
import logging
import os
import pathlib
import re
import secrets
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from jaxseg import exits

# Seconds. A process that dies is noticed after HEARTBEAT at the latest and the others are told at once: less than 60.
HEARTBEAT = 30
START = 60
# At the end the others wait for the one that writes the results. It may take its time: if it dies, they learn of it.
SHUTDOWN = 1800
FINISH = 15

_NAMES = ("coordinator_address", "num_processes", "process_id")
_FAILED_COLLECTIVE = re.compile(
    r"gloo|nccl|connection (reset|closed|refused)|socket closed|coordination service|heartbeat|barrier"
    r"|preempted|another task|remote process|UNAVAILABLE|DEADLINE_EXCEEDED",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Flags:
    """`--coordinator_address`, `--num_processes` and `--process_id`: all of them, or none."""

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    start_timeout: int = START

    def given(self) -> bool:
        """Whether they say how many processes there are.

        Raises:
          ValueError: only some are given, or one does not fit the others.
        """
        values = {name: getattr(self, name) for name in _NAMES}
        missing = [name for name, value in values.items() if value is None]
        if self.start_timeout < 1:
            raise ValueError(f"--start_timeout={self.start_timeout}: seconds, at least 1.")
        if len(missing) == len(values):
            return False
        if missing:
            raise ValueError(
                f"--{' and --'.join(missing)} must be given, too: all of --{', --'.join(_NAMES)}, or none (then Slurm, "
                "Open MPI and TPU pods are detected)."
            )
        host, _, port = self.coordinator_address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(
                f"--coordinator_address={self.coordinator_address}: must be HOST:PORT of process 0, e.g. "
                "10.0.0.1:8476, with a port that is free there."
            )
        if self.num_processes < 1:
            raise ValueError(f"--num_processes={self.num_processes}: must be at least 1.")
        if not 0 <= self.process_id < self.num_processes:
            raise ValueError(
                f"--process_id={self.process_id}: must be from 0 to {self.num_processes - 1}, as "
                f"--num_processes={self.num_processes}."
            )
        return True


def define_flags() -> None:
    """Defines the flags of a program that may run as several processes."""
    flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, where none is found.")
    flags.DEFINE_integer("num_processes", None, "How many processes the run has.")
    flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")
    flags.DEFINE_integer(
        "start_timeout", START, "Seconds to wait at the start until all processes are there."
    )


def from_flags() -> Flags:
    """What was given of the flags that `define_flags` defines."""
    return Flags(**{f.name: flags.FLAGS[f.name].value for f in dataclasses.fields(Flags)})


def initialize(given: Flags, environment: Mapping[str, str] = os.environ) -> None:
    """Joins the processes of the run, if it has several; must come before anything that looks for devices.

    If not all of them are there in time, this process ends with `exits.LOST` and says so: jax itself would end it by
    SIGABRT.

    Raises:
      ValueError: the flags do not fit each other, or the scheduler's variables do not say enough.
    """
    wanted: dict[str, Any] = {}
    scheduler = None
    if given.given():
        wanted = {name: getattr(given, name) for name in _NAMES}
        # Otherwise jax would ask a scheduler around it which devices to take.
        wanted["cluster_detection_method"] = "deactivate"
        if given.process_id == 0:
            _check_free(given.coordinator_address)
    else:
        scheduler = detected(environment)
        if scheduler is None:
            return
    if "JAX_CPU_COLLECTIVES_IMPLEMENTATION" not in environment:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It warns of proxies in general; what it means is said below, if the processes do not meet.
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    try:
        with _limited(given):
            jax.distributed.initialize(
                **wanted,
                initialization_timeout=given.start_timeout + 30,
                heartbeat_timeout_seconds=HEARTBEAT,
                shutdown_timeout_seconds=SHUTDOWN,
            )
    except ValueError as error:
        if scheduler == "TPU":
            return  # a machine with TPUs of its own, in no pod
        raise ValueError(
            f"{scheduler or 'jax'} started this as one of several processes, but: {error} Give --coordinator_address, "
            "--num_processes and --process_id."
        ) from error


def _check_free(address: str) -> None:
    """jaxlib ends with a segmentation fault where it cannot listen on the port."""
    port = int(address.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise ValueError(
            f"--coordinator_address={address}: process 0 cannot listen on port {port} ({error.strerror}). Take "
            "another one that is free on its machine, from 1024, the same for all processes."
        ) from error


def detected(environment: Mapping[str, str]) -> str | None:
    """The scheduler that started this process as one of several: Slurm, Open MPI or TPU; None if there is none.

    A job of Slurm is not enough: its batch script and a shell in it are one process. In Kubernetes only TPU pods are
    detected, as pods with an index may as well be runs of their own; there the flags say it.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
    if "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment and int(tasks) > 1:
        return "Slurm"
    if int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return "Open MPI"
    platforms = environment.get("JAX_PLATFORMS", "tpu")
    if "tpu" in platforms.split(",") and _has_tpu(environment):
        return "TPU"
    return None


def _has_tpu(environment: Mapping[str, str]) -> bool:
    if {"TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"} & set(environment):
        return True
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Around a whole program: a process that fails ends at once, and does not wait for the others to end, too.

    They would wait for it where they need it, and it for them at its end. A process that is done or has saved at a
    signal ends as usual: all of them get there. One that is alone does not wait for its threads after a mistake,
    either: after a save that failed, Orbax's would hold it up for five minutes.
    """
    try:
        yield
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if status == exits.MISTAKE:
            _leave(status)
        if status and jax.distributed.is_initialized():
            if status != exits.PREEMPTED:
                _leave(status)
            if jax.process_index():  # the first has told it
                _tell(f"ends (exit {status}) at SIGTERM to one of them.")
        raise
    except BaseException as error:
        # Not jax.process_count(), which would wait for the others if no device has been used yet.
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        if isinstance(error, KeyboardInterrupt):
            _leave(exits.INTERRUPTED)
        if not lost_another(error):
            _leave(1)
        _tell(
            f"ends (exit {exits.LOST}): another process of the run is gone; its own output says why. The same command "
            "continues from the newest checkpoint."
        )
        _leave(exits.LOST)


def lost_another(error: BaseException) -> bool:
    """Whether an error of jax is what the other processes see when one is gone."""
    return isinstance(error, jax.errors.JaxRuntimeError) and bool(
        _FAILED_COLLECTIVE.search(str(error))
    )


def check_same_folder(folder: pathlib.Path) -> None:
    """Sees to it that all processes mean the same work directory, which lies on a file system of all machines.

    Raises:
      ValueError: some do not see what the first one writes; on all of them.
    """
    if jax.process_count() == 1:
        return
    number = multihost_utils.broadcast_one_to_all(np.uint32(secrets.randbits(32)))
    file = folder / f".seen-by-all-{int(number):08x}"  # nobody can have asked for it before
    if jax.process_index() == 0:
        file.touch()
    multihost_utils.sync_global_devices("written")
    seen = np.ravel(multihost_utils.process_allgather(np.asarray(file.exists())))
    if jax.process_index() == 0:
        file.unlink()
    if not seen.all():
        blind = ", ".join(str(i) for i in np.flatnonzero(~seen))
        raise ValueError(
            f"Not all processes see the same work directory {folder}: what process 0 writes there is not there for "
            f"process {blind}. Choose a --workdir on a file system that all machines share."
        )


def finish(work: Callable[[], None], after: BaseException | None) -> None:
    """Does what every process must do at its end, such as the last save, which they finish together.

    After an error perhaps nobody else comes: then not at all if the others are gone, and otherwise with a limit.
    """
    if after is None or jax.process_count() == 1:
        work()
    elif not lost_another(after):
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(FINISH)


def _tell(what: str) -> None:
    program = os.path.basename(sys.argv[0])
    process = f"process {jax.process_index()} of {jax.process_count()}"
    print(f"{program}: {process} {what}", file=sys.stderr)


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@contextlib.contextmanager
def _limited(given: Flags) -> Iterator[None]:
    """Ends the process if what is within takes longer than `start_timeout`."""

    def end() -> None:
        print(f"{os.path.basename(sys.argv[0])}: {_not_met(given)}", file=sys.stderr)
        _leave(exits.LOST)

    timer = threading.Timer(given.start_timeout, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _not_met(given: Flags) -> str:
    address = f" at {given.coordinator_address}" if given.coordinator_address else ""
    proxies = [name for name in os.environ if name.lower() in ("http_proxy", "https_proxy")]
    words = (
        f"the processes of the run did not meet{address} within {given.start_timeout} s (exit {exits.LOST}). Was each "
        "of them started, with the same number of processes, and may they reach that address? "
        "--start_timeout=SECONDS waits longer."
    )
    return words + (f" {', '.join(proxies)} may be in the way: unset." if proxies else "")
