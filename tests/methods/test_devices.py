"""The loss is that of the global batch: the same on one device and on eight."""

import pytest

from tests import simulated_devices
from tests.methods import devices


@pytest.fixture(scope="module")
def differences() -> dict:
    return simulated_devices.run("tests.methods.devices", devices=8)


@pytest.mark.parametrize("method", devices.METHODS)
def test_heads_on_fixed_proposals_in_float32(differences, method):
    assert differences[f"{method} heads"] < 1e-5


@pytest.mark.parametrize("method", devices.METHODS)
def test_the_whole_step_in_float64(differences, method):
    assert differences[f"{method} step"] < 1e-8
