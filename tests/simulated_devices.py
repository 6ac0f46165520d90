"""Tests on several devices: a module run in a process of its own, in which the CPU pretends to be that many."""

import json
import os
import pathlib
import subprocess
import sys


def run(module: str, devices: int, *arguments: str) -> dict:
    """What `python -m module arguments` prints as its last line, in JSON."""
    flags = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=pathlib.Path(__file__).parents[1],
        env=dict(os.environ, XLA_FLAGS=flags, JAX_PLATFORMS="cpu"),
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
