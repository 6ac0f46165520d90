"""The TPU kernels in interpret mode; test_lowering lowers them for a TPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import multilevel_roi_align, shape_aware_roi_align
from pallas_kernels.roi_align import tpu, xla
from pallas_kernels.roi_align.grid import Spec, sample_grid
from tests.pallas_kernels import cases
from tests.pallas_kernels.checks import OracleChecks, assert_close

_INTERPRETED = tpu.implementation(interpret=True)


class TestOracles(OracleChecks):
    """Maps with cut tiles, and one that is smaller than a tile."""

    implementation = _INTERPRETED
    case = cases.hard(128)


# More than one block of the backward, no multiple of a tile, and smaller than a tile.
_SHAPES = [(37, 45), (5, 3)]
_STRIDES = [4, 36]
_BOXES = [
    [[np.nan, 0, 50, 50], [-500, -500, 900, 900], [140, 120, 179.5, 147.5]],
    [[100, 90, 150, 148], [1000, 0, 1100, 50], [-3, 20, 60, 40]],  # the second is outside
]
_LEVELS = [[0, 1, 0], [0, 0, 0]]


def _features(channels, dtype):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(2, *shape, channels)), dtype) for shape in _SHAPES]


def test_bfloat16_and_blocks_of_channels_match_xla():
    """As on a device: a copy happens when it is waited for, and memory starts as NaN."""
    rng = np.random.default_rng(1)
    channels, dtype = 640, jnp.bfloat16  # five blocks
    probabilities = jnp.asarray(rng.random((2, 3, 4, 3)), jnp.float32)
    d_out = jnp.asarray(rng.normal(size=(2, 3, 2, 9, channels)), dtype)
    pool = functools.partial(
        shape_aware_roi_align,
        boxes=jnp.asarray(_BOXES, jnp.float32),
        levels=jnp.asarray(_LEVELS),
        strides=_STRIDES,
        output_size=(2, 9),
        sampling_ratio=0,
        max_sampling_ratio=3,
    )

    # Compiling takes far longer than running.
    @functools.partial(
        jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0}
    )
    def run(implementation, features, probabilities):
        out, vjp = jax.vjp(
            lambda f, p: pool(f, probabilities=p, implementation=implementation),
            features,
            probabilities,
        )
        return out, vjp(d_out)

    kernels = tpu.implementation(interpret=pltpu.InterpretParams())
    inputs = _features(channels, dtype), probabilities
    expected, actual = run(xla.IMPLEMENTATION, *inputs), run(kernels, *inputs)
    for e, a in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
        assert a.dtype == e.dtype
        tolerance = 1e-2 if a.dtype == dtype else 1e-5  # one rounding of the result
        e, a = np.asarray(e, np.float32), np.asarray(a, np.float32)
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * np.abs(e).max())


def test_vmap_and_cells_outside_the_window():
    """A cell that no sample of a RoI needs does not spoil it, even where the RoI's tiles hold it."""
    maps = jnp.broadcast_to(jnp.asarray([1.0, 2.0])[:, None, None, None], (2, 37, 45, 128))
    maps = maps.at[:, 20:].set(jnp.nan).at[:, :, 20:].set(jnp.nan)

    def pool(one):
        return multilevel_roi_align(
            [one[None]],
            jnp.asarray([[[8, 8, 60, 60], [np.nan, 0, 0, 0]]], jnp.float32),
            jnp.zeros((1, 2), jnp.int32),
            strides=[4],
            output_size=2,
            implementation=_INTERPRETED,
        )

    out = jax.jit(jax.vmap(pool))(maps)
    expected = np.asarray([[1, 0], [2, 0]]).reshape(2, 1, 2, 1, 1, 1)
    np.testing.assert_allclose(out, np.broadcast_to(expected, out.shape), rtol=1e-6)


def test_more_bins_than_the_chip_holds():
    pool = functools.partial(
        multilevel_roi_align,
        boxes=jnp.asarray([[[-3, 20, 60, 140]]], jnp.float32),
        levels=jnp.zeros((1, 1), jnp.int32),
        strides=_STRIDES,
        output_size=40,
        sampling_ratio=1,
    )
    features = [f[:1] for f in _features(128, jnp.float32)]
    d_out = jnp.asarray(np.random.default_rng(1).normal(size=(1, 1, 40, 40, 128)), jnp.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def run(implementation):
        out, vjp = jax.vjp(lambda f: pool(f, implementation=implementation), features)
        return out, vjp(d_out)

    assert_close(run(_INTERPRETED), run(xla.IMPLEMENTATION), 2e-5)


def _spec(channels=128, dtype=jnp.float32, size=(7, 7), rois=8):
    return Spec(tuple(_SHAPES), tuple(_STRIDES), channels, jnp.dtype(dtype), size, 2, True, 4, rois)


def test_no_rois():
    spec = _spec(dtype=jnp.bfloat16)
    forward, d_features, d_weights, _ = tpu.IMPLEMENTATION

    def kernels(features, boxes, levels, weights):
        grid = sample_grid(boxes, levels, None, spec)
        out = forward(features, grid, weights, spec)
        return out, d_features(out, grid, weights, spec), d_weights(features, out, grid, spec)

    features = tuple(_features(128, spec.dtype))
    none = (jnp.zeros((2, 0, *rest)) for rest in ((4,), (), (14, 14)))
    out, gradients, of_weights = jax.jit(kernels)(features, *none)
    assert out.shape == (2, 0, 7, 7, 128) and of_weights.shape == (2, 0, 14, 14)
    assert [x.shape for x in gradients] == [x.shape for x in features]
    assert not any(x.any() for x in gradients)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (_spec(channels=64), "multiple of 128"),
        (_spec(dtype=jnp.float16), "float16"),
        (_spec(size=(1, 1025)), "1024 at most .* got 1025 in a row"),
        (_spec(rois=8193), "got 8193"),
        (_spec(size=(64, 64), rois=2049), "counts as several: got 8196"),
    ],
)
def test_what_is_not_covered_says_why(spec, reason):
    with pytest.raises(NotImplementedError, match=reason):
        tpu.IMPLEMENTATION.check(spec)
