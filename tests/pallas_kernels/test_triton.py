"""The kernel bodies that both GPU backends share, in interpret mode; test_gpu runs them on a GPU."""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.roi_align import triton
from tests.pallas_kernels import cases
from tests.pallas_kernels.checks import OracleChecks, assert_close
from tests.pallas_kernels.composition_checks import CompositionChecks
from tests.pallas_kernels.number_checks import NumberChecks

_INTERPRETED = triton.implementation(interpret=True)


class TestOracles(OracleChecks):
    implementation = _INTERPRETED
    case = cases.hard(96)  # three blocks of 32 channels


class TestAdaptive(OracleChecks):
    implementation = _INTERPRETED
    case = cases.adaptive(32, most=3)


class TestBfloat16(OracleChecks):
    implementation = _INTERPRETED
    case = cases.tiny(32).astype(jnp.bfloat16)
    tolerance = 2**-8  # one rounding, of the result


class TestNumbers(NumberChecks):
    implementation = _INTERPRETED
    channels = 32


class TestComposition(CompositionChecks):
    implementation = _INTERPRETED
    channels = 32


def test_float64_boxes_are_narrowed():
    case = cases.tiny(32)
    with jax.enable_x64(True):
        results = cases.run(case.replace(boxes=np.float64(case.boxes)), _INTERPRETED)
    assert_close(results, cases.by_matrices(case), 2e-5)
