"""The loss is that of the global batch: the same on one device and on eight."""

import json
import os
import pathlib
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def differences() -> dict:
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-m", "tests.methods.devices"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=pathlib.Path(__file__).parents[2],
        env=dict(os.environ, XLA_FLAGS=flags, JAX_PLATFORMS="cpu"),
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_heads_on_fixed_proposals_in_float32(differences):
    assert differences["heads"] < 1e-5


def test_the_whole_step_in_float64(differences):
    assert differences["step"] < 1e-8
