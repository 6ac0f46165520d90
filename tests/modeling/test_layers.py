"""Convolutions with a norm, deconvolution, and which cells hold the image."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.modeling import deform_conv, layers, norms


def test_deconv_equals_flax_with_the_kernel_turned_round():
    x = jax.random.normal(jax.random.key(0), (3, 4, 5, 6))
    ours, theirs = layers.Deconv2x2(7), nn.ConvTranspose(7, (2, 2), (2, 2))
    variables = ours.init(jax.random.key(1), x)
    variables["params"]["bias"] = jnp.arange(7.0)
    turned = {"params": dict(variables["params"], kernel=variables["params"]["kernel"][::-1, ::-1])}
    np.testing.assert_allclose(ours.apply(variables, x), theirs.apply(turned, x), atol=1e-5)


def test_deconv_puts_each_kernel_entry_where_torch_does():
    layer = layers.Deconv2x2(1)
    kernel = jnp.arange(4.0).reshape(2, 2, 1, 1)
    variables = {"params": {"kernel": kernel, "bias": jnp.zeros(1)}}
    out = layer.apply(variables, jnp.array([[[[1.0], [10.0]]]]))
    np.testing.assert_array_equal(out[0, :, :, 0], [[0, 1, 0, 10], [2, 3, 20, 30]])


def test_cells_of_image():
    cells = layers.cells_of_image(jnp.array([[9.0, 4.0], [8.0, 16.0]]), 4, 4, 4)
    np.testing.assert_array_equal(cells.sum((1, 2)), [3 * 1, 2 * 4])
    assert cells[0, 2, 0] and not cells[0, 3, 0] and not cells[0, 0, 1]


def test_double_repeats_each_cell():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(
        layers.double(x)[0, :, :, 0], [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    )


def variables_of(block, x):
    """Random ones, those of the norms far from 1 and 0."""
    rng = np.random.default_rng(2)
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x))
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.1, 2.0, leaf.shape), x.dtype), shapes
    )


class Normed(nn.Module):
    conv: Callable[..., nn.Module]
    norm: Callable[..., norms.Norm] = norms.FrozenBatchNorm

    @nn.compact
    def __call__(self, x, folded=True):
        conv, norm = self.conv(name="conv"), self.norm(name="norm")
        if not folded:
            return norm(conv(x))
        return layers.normed(conv, norm, x, mask=None, train=False)


def elsewhere(*arrays, cpu, default):
    """`jax.lax.platform_dependent` as platforms other than a CPU take it."""
    del cpu
    return default(*arrays)


CONVOLUTIONS = {
    "3x3": functools.partial(layers.Conv, 6, 3, stride=2, bias=False),
    "1x1": functools.partial(layers.Conv, 6, 1, bias=False),
    "groups": functools.partial(layers.Conv, 6, 3, groups=2, bias=False),
    "bias": functools.partial(layers.Conv, 6, 3, dilation=2),
    "deformable": functools.partial(deform_conv.DeformConv, 6, 3, version="v2"),
}


@pytest.mark.parametrize(
    "name, dtype, platform",
    [
        *((name, "float64", "default") for name in CONVOLUTIONS),
        ("3x3", "float32", "default"),
        ("3x3", "float64", "cpu"),
    ],
)
def test_a_frozen_norm_in_a_convolution_is_one_after_it(name, dtype, platform, monkeypatch):
    if platform == "default":
        monkeypatch.setattr(jax.lax, "platform_dependent", elsewhere)
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6, 4)), dtype)
        block = Normed(functools.partial(CONVOLUTIONS[name], dtype=jnp.dtype(dtype)))
        variables = variables_of(block, x)

        @functools.partial(jax.jit, static_argnums=2)
        def run(params, x, folded):
            call = lambda params, x: block.apply(dict(variables, params=params), x, folded)  # noqa: E731
            y, pull = jax.vjp(call, params, x)
            return y, pull(jnp.sin(jnp.arange(y.size, dtype=dtype)).reshape(y.shape))

        found, expected = (run(variables["params"], x, folded) for folded in (True, False))
    tolerance = 2e-6 if dtype == "float32" else 1e-14

    def same(a, b):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())

    jax.tree.map(same, found, expected)
