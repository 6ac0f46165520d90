"""The xla implementation, the reference; and the geometry, which all implementations share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from pallas_kernels.roi_align import xla
from pallas_kernels.roi_align.arg_specs import TINY
from tests.pallas_kernels import cases
from tests.pallas_kernels.checks import OracleChecks, assert_close
from tests.pallas_kernels.composition_checks import CompositionChecks
from tests.pallas_kernels.number_checks import NumberChecks


class TestOracles(OracleChecks):
    implementation = "xla"
    case = cases.hard(5)


class TestAdaptive(OracleChecks):
    implementation = "xla"
    case = cases.adaptive(2, most=3)


class TestBfloat16(OracleChecks):
    implementation = "xla"
    case = cases.tiny(3).astype(jnp.bfloat16)
    tolerance = 2**-8  # one rounding, of the result


class TestNumbers(NumberChecks):
    implementation = "xla"
    channels = 2


class TestComposition(CompositionChecks):
    implementation = "xla"
    channels = 2


@pytest.mark.parametrize(
    "options",
    [
        {"aligned": False},
        {"aligned": False, "sampling_ratio": 0, "max_sampling_ratio": 2},
        {"strides": (3, 7), "sampling_ratio": 3},
        {"image_size": None},
    ],
)
def test_equals_the_loop(options):
    case = cases.hard(2)
    if "image_size" in options:
        case = case.replace(image_size=options["image_size"])
    else:
        case = case.replace(options=tuple((dict(case.options) | options).items()))
    both = jax.jit(lambda: (cases.plain(case, "xla"), cases.aware(case, "xla")))
    assert_close(both(), cases.by_loop(case), 2e-5)


def test_float64():
    def aware(feature, probabilities):
        return cases.aware(tiny, "xla", [feature], probabilities=probabilities)

    with jax.enable_x64(True):
        case, tiny = (
            c.replace(boxes=np.float64(c.boxes)).astype(np.float64)
            for c in (cases.hard(2), cases.tiny(2))
        )
        results = cases.run(case, "xla")
        check_grads(jax.jit(aware), (*tiny.features, tiny.probabilities), order=1, modes=["rev"])
    assert results.plain.dtype == results.d_probabilities.dtype == np.float64
    assert_close(results, cases.by_matrices(case), 1e-12)


def test_a_box_on_half_the_image_is_half_the_box_on_the_image():
    image = np.random.default_rng(0).random((30, 30))
    half = image.reshape(15, 2, 15, 2).mean((1, 3))  # bilinear resize by one half
    whole = _pool(image, [10, 10, 20, 20], 5, sampling_ratio=2)
    # At half size a bin is one cell: its 2x2 samples average neighbours, as one sample of the half image's centre does.
    small = _pool(half, [5, 5, 10, 10], 5, sampling_ratio=1)
    np.testing.assert_allclose(whole, small, atol=1e-4)


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_is_a_resized_crop_averaged(ratio):
    """As Detectron2's comparison with grid_sample: jax's own bilinear interpolation at the samples, then a mean."""
    image = np.random.default_rng(1).random((10, 12)).astype(np.float32)
    x1, y1, x2, y2, size = 1.5, 2.25, 9.0, 8.5, 3
    n = size * ratio
    y = y1 - 0.5 + (np.arange(n) + 0.5) / n * (y2 - y1)
    x = x1 - 0.5 + (np.arange(n) + 0.5) / n * (x2 - x1)
    at = np.meshgrid(y, x, indexing="ij")
    samples = np.asarray(jax.scipy.ndimage.map_coordinates(image, at, order=1))
    expected = samples.reshape(size, ratio, size, ratio).mean((1, 3))
    out = _pool(image, [x1, y1, x2, y2], size, sampling_ratio=ratio)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def _pool(image, box, size, **options):
    pool = NumberChecks()
    pool.implementation, pool.channels = "xla", 1
    return jax.jit(lambda image: pool.pool(image, box, size, **options))(image)


def test_padding_of_the_canvas_does_not_matter():
    case = cases.hard(2).replace(image_size=np.full((2, 2), 32.0, np.float32))
    poisoned = []
    for feature, stride in zip(case.features, (4, 8), strict=True):
        feature = feature.copy()
        feature[:, 32 // stride :] = np.nan
        feature[:, :, 32 // stride :] = np.inf
        poisoned.append(feature)
    out, again = (cases.run(c, "xla") for c in (case, case.replace(features=tuple(poisoned))))
    for one, other in zip(jax.tree.leaves(out), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
    for gradient, stride in zip(out.d_features, (4, 8), strict=True):
        assert gradient.any()
        assert not gradient[:, 32 // stride :].any() and not gradient[:, :, 32 // stride :].any()


def gradients(shapes, args):
    call = lambda features: shapes.call(args._replace(features=features), "xla")  # noqa: E731
    out, pull = jax.vjp(call, args.features)
    return out, pull(args.d_out)


def test_a_cpu_never_holds_the_updates_of_all_rois():
    shapes = TINY["box_7x7_fp32_tiny"]._replace(rois=512)
    args = shapes.shape_structs()
    with jax.default_device(jax.devices("cpu")[0]):
        program = jax.jit(lambda args: gradients(shapes, args)).lower(args).compile()
    updates = args.d_out.size * 4 * 4 * 4  # a bin has four samples of four corners, in float32
    assert program.memory_analysis().temp_size_in_bytes < updates / 4


@pytest.mark.parametrize("rois", [7, 0])
def test_chunks_give_what_all_at_once_gives(rois, monkeypatch):
    shapes = TINY["box_7x7_fp32_tiny"]._replace(rois=rois, channels=2)
    args = shapes.random_args()
    assert 2 * rois % xla._chunk(shapes.spec) or not rois  # some are left over
    chunked = jax.jit(lambda args: gradients(shapes, args))(args)
    monkeypatch.setattr(xla, "_CPU_SAMPLES", 10**6)
    undivided = jax.jit(lambda args: gradients(shapes, args))(args)
    assert_close(chunked, undivided, 1e-6)  # the compiler may contract to other multiply-adds
