"""The GPU kernels as Mosaic launches them, in its interpreter; test_lowering compiles them, test_gpu runs them."""

import pytest

from tests.pallas_kernels import cases
from tests.pallas_kernels.checks import OracleChecks

mosaic_gpu = pytest.importorskip("pallas_kernels.roi_align.mosaic_gpu", exc_type=ImportError)


def _interpreter():
    """Public in jax 0.12; before, in a private place."""
    try:
        from jax.experimental.pallas.mosaic_gpu import InterpretGPUParams
    except ImportError:
        params = pytest.importorskip(
            "jax._src.pallas.mosaic_gpu.interpret.params",
            reason="this jax has no interpreter for Mosaic GPU",
            exc_type=ImportError,
        )
        InterpretGPUParams = params.InterpretGPUParams
    return InterpretGPUParams()


class TestOracles(OracleChecks):
    implementation = mosaic_gpu.implementation(interpret=_interpreter())
    case = cases.tiny(128)
