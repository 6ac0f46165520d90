"""shard_map over the batch: each device pools its own images."""

import pytest

from tests import simulated_devices


@pytest.fixture(scope="module")
def differences() -> dict:
    return simulated_devices.run("tests.pallas_kernels.devices", devices=2)


@pytest.mark.parametrize("implementation", ["xla", "triton"])
def test_two_devices_give_what_one_gives(differences, implementation):
    assert differences[implementation] < 1e-5
