import jax.numpy as jnp
import pytest

from pallas_kernels.roi_align import xla
from pallas_kernels.roi_align.grid import Spec
from pallas_kernels.roi_align.operator import Implementation
from pallas_kernels.roi_align.strips import in_strips
from tests.pallas_kernels import cases
from tests.pallas_kernels.checks import OracleChecks


class TestOracles(OracleChecks):
    """Three rows of bins, each a strip."""

    implementation = in_strips(xla.IMPLEMENTATION, lambda spec: 2)
    case = cases.hard(5)


@pytest.mark.parametrize(
    ("rows", "most", "of_strip"),
    [(7, 7, 7), (7, 6, 1), (56, 18, 14), (56, 28, 28), (12, 5, 4), (3, 0, 1), (1, 0, 1)],
)
def test_strips_are_equal_and_as_high_as_they_may_be(rows, most, of_strip):
    seen = []
    spec = Spec(((9, 9),), (4,), 8, jnp.dtype(jnp.float32), (rows, 5), 2, True, 4, 10)
    in_strips(Implementation(None, None, None, seen.append), lambda _: most).check(spec)
    assert seen == [spec._replace(output_size=(of_strip, 5), rois=10 * rows // of_strip)]
