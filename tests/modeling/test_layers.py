import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.modeling import layers


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
