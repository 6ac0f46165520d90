"""Parameters that several devices share one copy of, and runs that go on on other devices than they began on."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import standin
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from jaxseg.training import metrics, setup, sharding
from tests import simulated_devices

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found() -> dict:
    return simulated_devices.run("tests.training.devices", 8)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((7, 7, 3, 64), ()),  # small
        ((3, 3, 256, 256), (None, None, None, "fsdp")),  # of two the last
        ((12544, 1024), ("fsdp",)),
        ((1, 1, 2048, 512), (None, None, "fsdp")),
        ((1025, 1024), (None, "fsdp")),  # the largest does not divide
        ((1025, 1023), ()),
        ((), ()),
    ],
)
def test_a_parameter_is_split_along_its_largest_dimension_that_divides(shape, spec):
    mesh = AbstractMesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    assert sharding.of_shape(shape, mesh).spec == PartitionSpec(*spec)


def test_without_the_axis_everything_lies_on_each_device():
    mesh = sharding.make_mesh(jax.devices()[:1])
    assert mesh.axis_names == ("data",)
    assert sharding.of_shape((12544, 1024), mesh) == sharding.replicated(mesh)


def test_a_number_that_does_not_divide_the_devices_is_refused():
    with pytest.raises(
        ValueError, match=r"mesh.fsdp=3 does not divide the 4 devices. Take 1 or 2 or 4\."
    ):
        sharding.make_mesh(jax.devices()[:1] * 4, 3)


@pytest.mark.parametrize("value", [0, True, 2.0, "all"])
def test_what_is_no_number_of_devices_is_refused(value):
    config = standin.make_config()
    with config.ignore_type():
        config.mesh.fsdp = value
    with pytest.raises(ValueError, match=r"mesh.fsdp=.* must be a whole number >= 1"):
        setup.checked(config, None)


def test_a_config_of_an_earlier_version_has_a_copy_on_each_device():
    config = standin.make_config()
    del config.mesh
    assert setup.checked(config, standin.common.base()).mesh.fsdp == 1


def test_steps_are_those_of_a_state_that_is_not_split(found):
    """State and losses after three steps, and with accumulated gradients and frozen parameters."""
    for name, difference in found["equal_steps"].items():
        assert difference < 1e-12, name
    assert found["accumulated"] < 1e-12


def test_initial_values_do_not_depend_on_how_they_lie(found):
    assert found["same_start"] == 0


def test_parameters_are_gathered_and_a_device_keeps_its_part(found):
    whole, split = found["compiled"]["1"], found["compiled"]["8"]
    assert split["of parameters"] > 0 and whole["of parameters"] == 0
    assert split["kept"] < 0.5 * whole["kept"]
    for made in (whole, split):  # of the state nothing is held twice
        assert made["given away"] >= made["kept"] - 64
    assert whole["arguments"] - split["arguments"] >= 0.9 * (whole["kept"] - split["kept"])


def test_a_run_goes_on_on_other_devices(found):
    assert len(found["restored"]) == 8
    for name, difference in found["restored"].items():
        assert difference < 1e-12, name


def start(folder, *settings, devices=8, processes=1, at=""):
    """Trains in some processes of some simulated devices each; returns their exit codes and output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.training.two_processes"]
    running = [
        subprocess.Popen(
            [*command, str(i), str(processes), address, str(folder), at, *settings],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        for i in range(processes)
    ]
    try:
        output = [process.communicate(timeout=300)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [process.returncode for process in running], "\n".join(output)


def losses(folder):
    return [line["loss"] for line in metrics.read(folder, "train")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run on eight devices of one process that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    codes, output = start(folder)
    assert codes == [0], output
    return folder


HOSTS = dict(devices=4, processes=2)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 8])
def test_two_processes_train_as_one(tmp_path, whole, fsdp):
    codes, output = start(tmp_path / "run", f"mesh.fsdp={fsdp}", **HOSTS)
    assert codes == [0, 0], output
    assert len(losses(whole)) == 6
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(whole), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "fsdp"),
    [
        ({}, HOSTS, 8),
        (HOSTS, dict(devices=4), 4),
        (HOSTS, dict(devices=1), 1),
    ],
    ids=["onto two hosts", "onto half of one", "onto one device"],
)
def test_a_run_that_was_cut_off_goes_on_on_other_hosts(tmp_path, whole, before, after, fsdp):
    folder = tmp_path / "run"
    codes, output = start(folder, "mesh.fsdp=2", at="step 5", **before)
    assert 0 not in codes, output
    codes, output = start(folder, f"mesh.fsdp={fsdp}", **after)
    assert set(codes) == {0} and "Resumed from step" in output, output
    np.testing.assert_allclose(losses(folder), losses(whole), rtol=1e-4)


@pytest.mark.slow
def test_two_processes_pass_a_damaged_checkpoint_over(tmp_path, whole):
    """Also where only one of them reads the part that is damaged."""
    folder = tmp_path / "run"
    codes, output = start(folder, "mesh.fsdp=8", "train.steps=4", **HOSTS)
    assert codes == [0, 0], output
    largest = max((folder / "checkpoints" / "4").rglob("d/*"), key=lambda f: f.stat().st_size)
    largest.write_bytes(bytes(largest.stat().st_size))
    codes, output = start(folder, "mesh.fsdp=8", **HOSTS)
    assert codes == [0, 0], output
    assert "Checkpoint 4 is damaged" in output and "Resumed from step 2" in output, output
    np.testing.assert_allclose(losses(folder), losses(whole), rtol=1e-3)


@pytest.mark.slow
def test_two_processes_start_from_the_weights_of_another_run(tmp_path, whole):
    codes, output = start(
        tmp_path / "run", "mesh.fsdp=8", f"init_from={str(whole)!r}", "train.steps=2", **HOSTS
    )
    assert codes == [0, 0], output
    assert "Started from the weights of" in output, output
