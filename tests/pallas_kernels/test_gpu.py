"""What the CPU tests run in interpreters, on a GPU: `pytest -m gpu -n 0 tests/pallas_kernels`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.roi_align import arg_specs, choice
from tests.pallas_kernels import cases
from tests.pallas_kernels.checks import OracleChecks, check_arg_spec
from tests.pallas_kernels.composition_checks import CompositionChecks
from tests.pallas_kernels.number_checks import NumberChecks

pytestmark = pytest.mark.gpu

_LEAST_CAPABILITY = {"mosaic_gpu": 9.0, "triton": 8.0}


def _need(implementation):
    device = jax.devices()[0]
    capability = getattr(device, "compute_capability", "")
    if device.platform != "gpu" or not capability[:1].isdigit():
        pytest.skip(f"needs an NVIDIA GPU, and jax runs on {device.device_kind}")
    least = _LEAST_CAPABILITY.get(implementation, 0)
    if float(capability) < least:
        pytest.skip(f"{implementation} needs compute capability {least}, not {capability}")


class _OnGpu:
    @pytest.fixture(autouse=True)
    def gpu(self):
        _need(self.implementation)


class _Mosaic(_OnGpu):
    implementation = "mosaic_gpu"
    channels = 128


class _Triton(_OnGpu):
    implementation = "triton"
    channels = 32


class _Xla(_OnGpu):
    """Takes another path than on a CPU, and adds up gradients in any order."""

    implementation = "xla"
    deterministic = False


class _Bfloat16(OracleChecks):
    tolerance = 2**-8  # one rounding, of the result


class TestMosaicOracles(_Mosaic, OracleChecks):
    case = cases.hard(256)


class TestMosaicOraclesInBlocks(_Mosaic, OracleChecks):
    case = cases.hard(384)


class TestMosaicAdaptive(_Mosaic, OracleChecks):
    case = cases.adaptive(128, most=3)


class TestMosaicBfloat16(_Mosaic, _Bfloat16):
    case = cases.hard(256).astype(jnp.bfloat16)


class TestMosaicNumbers(_Mosaic, NumberChecks):
    pass


class TestMosaicComposition(_Mosaic, CompositionChecks):
    pass


class TestTritonOracles(_Triton, OracleChecks):
    case = cases.hard(256)


class TestTritonOraclesInBlocks(_Triton, OracleChecks):
    case = cases.hard(96)


class TestTritonAdaptive(_Triton, OracleChecks):
    case = cases.adaptive(32, most=3)


class TestTritonBfloat16(_Triton, _Bfloat16):
    case = cases.hard(256).astype(jnp.bfloat16)


class TestTritonNumbers(_Triton, NumberChecks):
    pass


class TestTritonComposition(_Triton, CompositionChecks):
    pass


class TestXlaOracles(_Xla, OracleChecks):
    case = cases.hard(256)


class TestXlaBfloat16(_Xla, _Bfloat16):
    case = cases.hard(256).astype(jnp.bfloat16)


@pytest.mark.parametrize("implementation", ["mosaic_gpu", "triton"])
@pytest.mark.parametrize("name", arg_specs.PRODUCTION)
def test_production_shapes(name, implementation):
    """Two images of them: the oracle is xla, and what it needs grows with the batch."""
    _need(implementation)
    spec = arg_specs.PRODUCTION[name]._replace(batch=2)
    half = spec.dtype == jnp.bfloat16
    check_arg_spec(spec, implementation, 2**-8 if half else 2e-5)


def test_the_default_is_the_best_kernel():
    _need("mosaic_gpu")
    spec = arg_specs.PRODUCTION["box_7x7_bf16"].spec
    assert choice.choose(None, spec) is choice.choose("mosaic_gpu", spec)
    assert choice.choose(None, spec._replace(channels=96)) is choice.choose("triton", spec)
    assert choice.choose(None, spec._replace(dtype=np.dtype(np.float64))) is choice.choose(
        "xla", spec
    )
