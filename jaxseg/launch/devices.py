"""Which process gets which GPUs of this machine, without asking jax."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

SIMULATED = "--xla_force_host_platform_device_count"


def split(
    processes: int,
    each: int | None,
    environment: Mapping[str, str] = os.environ,
    gpus: Sequence[str] | None = None,
) -> list[dict[str, str]]:
    """What to set in the environment of each process.

    Args:
      processes: how many there are.
      each: devices of a process; None for an equal share of the GPUs, and for one device on a CPU.
      environment: that of the launcher.
      gpus: their numbers or names; None to look.

    Raises:
      ValueError: there are too few, or they cannot be divided.
    """
    gpus = visible_gpus(environment) if gpus is None else gpus
    if not gpus:
        flags = environment.get("XLA_FLAGS", "")
        simulated = {"XLA_FLAGS": f"{flags} {SIMULATED}={each}".strip()} if each else {}
        return [dict(simulated) for _ in range(processes)]
    if each is None:
        if len(gpus) % processes:
            raise ValueError(
                f"--processes={processes}: the {len(gpus)} GPUs here cannot be divided equally. Take a divisor, or "
                "give --devices_per_process."
            )
        each = len(gpus) // processes
    if each * processes > len(gpus):
        raise ValueError(
            f"--processes={processes} with --devices_per_process={each} need {each * processes} GPUs; there are "
            f"{len(gpus)}."
        )
    parts = [gpus[i * each : (i + 1) * each] for i in range(processes)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(part)} for part in parts]


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that a program started from here would see; none where JAX_PLATFORMS leaves them out."""
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    if "CUDA_VISIBLE_DEVICES" in environment:
        names = map(str.strip, environment["CUDA_VISIBLE_DEVICES"].split(","))
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))  # as CUDA does
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    done = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    count = sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    return [str(i) for i in range(count)]
