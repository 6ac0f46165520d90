"""The kernel bodies that both GPU backends share, in interpret mode; test_gpu runs them on a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.roi_align import arg_specs, triton
from tests.pallas_kernels import cases
from tests.pallas_kernels.checks import OracleChecks, check_arg_spec
from tests.pallas_kernels.composition_checks import CompositionChecks
from tests.pallas_kernels.number_checks import NumberChecks

_INTERPRETED = triton.implementation(interpret=True)


class TestOracles(OracleChecks):
    implementation = _INTERPRETED
    case = cases.hard(96)  # three blocks of 32 channels


class TestAdaptiveInBfloat16(OracleChecks):
    implementation = _INTERPRETED
    case = cases.adaptive(32, most=2).astype(jnp.bfloat16)
    tolerance = 2**-8  # one rounding, of the result


class TestNumbers(NumberChecks):
    implementation = _INTERPRETED
    channels = 32


class TestComposition(CompositionChecks):
    implementation = _INTERPRETED
    channels = 32


def test_float64_boxes_are_narrowed():
    """The loops of a kernel would not take sums of two kinds; its results keep their dtypes."""
    case = cases.tiny(32)

    def loss(feature, probabilities, boxes):
        return cases.aware(case, _INTERPRETED, [feature], boxes, probabilities).sum()

    with jax.enable_x64(True):
        inputs = case.features[0], case.probabilities, np.float64(case.boxes)
        gradients = jax.eval_shape(jax.grad(loss, (0, 1, 2)), *inputs)
    assert [g.dtype for g in gradients] == [np.float32, np.float32, np.float64]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["box_7x7_fp32_tiny", "shape_aware_7x7_bf16_tiny"])
def test_small_forms_of_the_production_shapes(name):
    """As test_gpu does with the real ones."""
    check_arg_spec(arg_specs.TINY[name], _INTERPRETED, 2**-8 if "bf16" in name else 2e-5)


@pytest.mark.slow
class TestFloat16(OracleChecks):
    implementation = _INTERPRETED
    case = cases.tiny(32).astype(np.float16)
    tolerance = 2**-10
