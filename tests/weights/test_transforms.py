"""Layers of ours with transformed weights compute what torch's layers do, written out as loops over NCHW arrays."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.modeling import layers, mask_head
from jaxseg.weights import transforms

RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def apply(module, params, x, *args):
    return np.asarray(module.apply({"params": params}, jnp.asarray(x), *args))


def torch_conv(x, weight, groups=1):
    """x: (C, H, W), weight (O, C / groups, k, k), without padding."""
    out, inputs, k, _ = weight.shape
    height, width = x.shape[1] - k + 1, x.shape[2] - k + 1
    y = np.zeros((out, height, width), np.float32)
    for o in range(out):
        first = o // (out // groups) * inputs
        for i in range(height):
            for j in range(width):
                part = x[first : first + inputs, i : i + k, j : j + k]
                y[o, i, j] = (part * weight[o]).sum()
    return y


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution(groups):
    x, weight = random(4, 5, 6), random(6, 4 // groups, 3, 3)
    conv = nn.Conv(6, (3, 3), padding="VALID", use_bias=False, feature_group_count=groups)
    ours = apply(conv, {"kernel": transforms.CONV.take(weight)}, x.transpose(1, 2, 0)[None])
    np.testing.assert_allclose(ours[0].transpose(2, 0, 1), torch_conv(x, weight, groups), atol=1e-5)


def test_a_convolution_of_reversed_channels():
    x, weight = random(3, 5, 5), random(2, 3, 3, 3)
    kernel = transforms.flip_input(transforms.CONV).take(weight)
    conv = nn.Conv(2, (3, 3), padding="VALID", use_bias=False)
    ours = apply(conv, {"kernel": kernel}, x.transpose(1, 2, 0)[None])
    np.testing.assert_allclose(ours[0].transpose(2, 0, 1), torch_conv(x[::-1], weight), atol=1e-5)


def test_the_first_linear_layer_on_a_map():
    x, weight = random(4, 3, 3), random(5, 36)
    kernel = transforms.linear_of_map(3).take(weight)
    ours = x.transpose(1, 2, 0).reshape(-1) @ kernel
    np.testing.assert_allclose(ours, weight @ x.reshape(-1), atol=1e-5)


def test_a_deconvolution():
    x, weight = random(3, 2, 2), random(3, 4, 2, 2)
    wanted = np.zeros((4, 4, 4), np.float32)
    for i, j, a, b in np.ndindex(2, 2, 2, 2):
        wanted[:, 2 * i + a, 2 * j + b] = x[:, i, j] @ weight[:, :, a, b]
    params = {"kernel": transforms.DECONV.take(weight), "bias": np.zeros(4, np.float32)}
    ours = apply(layers.Deconv2x2(4), params, np.asarray(x.transpose(1, 2, 0))[None])
    np.testing.assert_allclose(ours[0].transpose(2, 0, 1), wanted, atol=1e-5)


def test_a_predictor_of_maps():
    x, weight = random(3, 2, 2), random(5, 3, 1, 1)
    params = {"kernel": transforms.PREDICTOR.take(weight), "bias": np.zeros(5, np.float32)}
    ours = apply(mask_head.ClassConv(5), params, x.transpose(1, 2, 0)[None, None], None)
    np.testing.assert_allclose(ours[0, 0].transpose(2, 0, 1), torch_conv(x, weight), atol=1e-5)


@pytest.mark.parametrize(
    "transform, shape",
    [
        (transforms.VECTOR, (7,)),
        (transforms.CONV, (6, 4, 3, 3)),
        (transforms.flip_input(transforms.CONV), (6, 3, 7, 7)),
        (transforms.LINEAR, (5, 6)),
        (transforms.linear_of_map(3), (5, 36)),
        (transforms.DECONV, (3, 4, 2, 2)),
        (transforms.PREDICTOR, (5, 3, 1, 1)),
        (transforms.take_rows(transforms.LINEAR, np.array([2, 0, 1]), 3), (3, 6)),
    ],
)
def test_give_undoes_take(transform, shape):
    theirs = random(*shape)
    ours = transform.take(theirs)
    np.testing.assert_array_equal(transform.give(ours), theirs)
    assert transform.shape(ours.shape) == shape


def test_rows_that_are_not_taken_come_back_as_zeros():
    transform = transforms.take_rows(transforms.LINEAR, np.array([2, 0]), 4)
    theirs = random(4, 3)
    back = transform.give(transform.take(theirs))
    np.testing.assert_array_equal(back, theirs * np.array([[1], [0], [1], [0]]))
    assert transform.shape((3, 2)) == (4, 3)


@pytest.mark.parametrize("epsilon", [0.0, 1e-7, 1e-5, 1e-3, 0.1, 0.3])
def test_a_folded_variance_and_epsilon_are_one(epsilon):
    assert transforms.folded_variance(epsilon) + np.float32(epsilon) == 1.0
