"""The loss is that of the global batch: the same on one device and on eight."""

import pytest

from tests import simulated_devices

WHAT = ("heads mask_rcnn", "heads mr_rcnn", "step mask_rcnn")


@pytest.fixture(scope="module")
def differences() -> dict:
    return simulated_devices.run("tests.methods.devices", 8, *WHAT)


@pytest.mark.parametrize("method", ["mask_rcnn", "mr_rcnn"])
def test_heads_on_fixed_proposals_in_float32(differences, method):
    assert differences[f"heads {method}"] < 1e-5


def test_the_whole_step_in_float64(differences):
    assert differences["step mask_rcnn"] < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mr_rcnn", "atmask", "brefine1", "brefine2", "brefine8"])
def test_the_whole_step_of_others_in_float64(method):
    found = simulated_devices.run("tests.methods.devices", 8, f"step {method}")
    assert found[f"step {method}"] < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["mask_rcnn", "mr_rcnn", "atmask", "brefine2", "cascade_mask_rcnn", "maskplus"]
)
def test_a_step_whose_state_is_split_over_devices(method):
    found = simulated_devices.run("tests.methods.devices", 8, f"spread {method}")
    assert found[f"spread {method}"] < 1e-8
