"""Against XLA's convolution and its gradients."""

import jax
import numpy as np
import pytest

from jaxseg.modeling import layers
from jaxseg.ops import convolution
from tests import simulated_devices


def xla(x, kernel, strides, padding, **settings):
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=dims, **settings
    )


def results(function, x, kernel, dy):
    """Output and both gradients."""
    y, pull = jax.vjp(function, x, kernel)
    return y, *pull(dy)


def arrays(size, channels, window, dtype, groups=1, images=3):
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (images, *size, channels[0]), dtype)
    kernel = jax.random.normal(keys[1], (window, window, channels[0] // groups, channels[1]), dtype)
    return x, kernel


def check(ours, theirs, tolerance):
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
        mine, other = np.asarray(mine, np.float64), np.asarray(other, np.float64)
        np.testing.assert_allclose(mine, other, atol=tolerance * np.abs(other).max(), rtol=0)


@pytest.mark.parametrize(
    "size, channels, window, stride, settings, dtype",
    [
        ((7, 6), (16, 24), 1, 1, {}, "float32"),  # turned is the input
        ((7, 6), (24, 16), 1, 2, {}, "float32"),  # turned are the outputs
        ((8, 7), (16, 16), 1, 3, {}, "float32"),
        ((14, 14), (32, 4), 3, 1, {}, "float32"),  # blocks of whole images
        ((24, 100), (32, 4), 3, 1, {}, "float32"),  # blocks of rows
        ((25, 100), (32, 4), 3, 2, {}, "float32"),
        ((9, 8), (32, 4), 3, 1, {"rhs_dilation": (2, 2)}, "float32"),
        ((9, 8), (32, 4), 5, 3, {}, "float32"),
        ((9, 8), (3, 4), 7, 2, {}, "float32"),  # few channels: XLA's own
        ((9, 8), (32, 8), 3, 2, {"feature_group_count": 4}, "float32"),
        ((9, 8), (32, 4), 3, 2, {}, "bfloat16"),
        ((9, 8), (32, 4), 1, 2, {}, "bfloat16"),
        ((9, 8), (32, 4), 3, 2, {}, "float64"),
    ],
)
def test_output_and_gradients_equal_xlas(size, channels, window, stride, settings, dtype):
    with jax.enable_x64(dtype == "float64"):
        pad = (window - 1) // 2 * settings.get("rhs_dilation", (1,))[0]
        shared = ((stride, stride), ((pad, pad), (pad, pad)))
        groups = settings.get("feature_group_count", 1)
        x, kernel = arrays(size, channels, window, dtype, groups)
        dy = xla(x, kernel, *shared, **settings)
        ours = results(lambda x, k: convolution.convolve(x, k, *shared, **settings), x, kernel, dy)
        theirs = results(lambda x, k: xla(x, k, *shared, **settings), x, kernel, dy)
        tolerance = {"float32": 2e-6, "bfloat16": 1e-2, "float64": 1e-14}[dtype]
        check(ours, theirs, tolerance)


def loss(convolve, x, kernel):
    window = kernel.shape[0]
    pad = (window - 1) // 2
    return (convolve(x, kernel, (1, 1), ((pad, pad), (pad, pad))) ** 2).sum()


@pytest.mark.parametrize("window", [1, 3])
def test_under_vmap_and_checkpoint(window):
    x, kernel = arrays((6, 5), (32, 4), window, "float32")

    def gradients(convolve):
        grad = jax.grad(jax.checkpoint(lambda x, k: loss(convolve, x, k)), (0, 1))
        return jax.jit(jax.vmap(grad, (0, None)))(x[:, None], kernel)

    check(gradients(convolution.convolve), gradients(xla), 2e-6)


@pytest.mark.parametrize("window", [1, 3])
def test_computes_only_what_is_asked_for(window):
    x, kernel = arrays((6, 5), (32, 4), window, "float32")
    for argument in (0, 1):
        grad = jax.grad(lambda x, k: loss(convolution.convolve, x, k), argument)
        products = str(jax.make_jaxpr(grad)(x, kernel)).count("conv_general_dilated[")
        assert products == 2  # forward and one gradient, of XLA's branch


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("window", [1, 3])
def test_other_platforms_convolve(platform, window):
    layer = layers.Conv(4, window)
    x, _ = arrays((6, 5), (32, 4), window, "float32")
    grad = jax.jit(jax.grad(lambda p, x: (layer.apply(p, x) ** 2).sum(), (0, 1)))
    params = layer.init(jax.random.key(0), x)
    text = grad.trace(params, x).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 3
    assert "dot_general" not in text and "while" not in text


def test_devices_add_up_their_parts():
    for found in simulated_devices.run("tests.ops.convolution_devices", 2):
        assert found["difference"] < 1e-6
        assert found["collectives"] == ["all-reduce"]  # nobody gathers maps
