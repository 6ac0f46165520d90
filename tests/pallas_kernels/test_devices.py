"""shard_map over the batch: each device pools its own images."""

import json
import os
import pathlib
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def differences() -> dict:
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-m", "tests.pallas_kernels.devices"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=pathlib.Path(__file__).parents[2],
        env=dict(os.environ, XLA_FLAGS=flags, JAX_PLATFORMS="cpu"),
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("implementation", ["xla", "triton"])
def test_two_devices_give_what_one_gives(differences, implementation):
    assert differences[implementation] < 1e-5
