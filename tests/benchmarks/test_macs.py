"""Multiply-adds by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from benchmarks import macs
from jaxseg.modeling import layers

SQUARE = jax.ShapeDtypeStruct((5, 5), jnp.float32)
ONE = 5**3  # of the product of two of them


def counted(function, *arguments):
    return list(macs.operations(jax.make_jaxpr(function)(*arguments).jaxpr))


def convolve(input_shape, kernel_shape, **settings):
    convolution = functools.partial(
        jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"), **settings
    )
    shapes = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (input_shape, kernel_shape))
    (operation,) = counted(convolution, *shapes)
    return operation


@pytest.mark.parametrize(
    "channels, kernel, settings, expected",
    [
        # Outputs x kernel x channels in, padding included.
        (6, (3, 3, 6, 10), dict(window_strides=(1, 1), padding="SAME"), 8 * 12 * 10 * 9 * 6),
        (6, (3, 3, 6, 10), dict(window_strides=(1, 1), padding="VALID"), 6 * 10 * 10 * 9 * 6),
        (
            6,
            (3, 5, 6, 10),
            dict(window_strides=(2, 3), padding=((1, 1), (2, 2))),
            4 * 4 * 10 * 15 * 6,
        ),
        (
            6,
            (3, 3, 2, 12),
            dict(window_strides=(1, 1), padding="SAME", feature_group_count=3),
            8 * 12 * 12 * 9 * 2,
        ),
        (
            6,
            (3, 3, 6, 10),
            dict(window_strides=(1, 1), padding="VALID", rhs_dilation=(2, 2)),
            4 * 8 * 10 * 9 * 6,
        ),
        # Transposed, 2 x 2 of stride 2: each input meets the kernel once.
        (
            6,
            (2, 2, 6, 10),
            dict(window_strides=(1, 1), padding=((1, 1), (1, 1)), lhs_dilation=(2, 2)),
            8 * 12 * 10 * 4 * 6,
        ),
    ],
    ids=["same", "valid", "strides", "groups", "dilated", "transposed"],
)
def test_a_convolution(channels, kernel, settings, expected):
    operation = convolve((3, 8, 12, channels), kernel, **settings)
    assert operation.macs == 3 * expected and operation.batch == 3


def test_a_matrix_product():
    a, b = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 3, 4, 5), (2, 4, 5, 7)))
    (operation,) = counted(functools.partial(jnp.einsum, "bhij,bijk->bhk"), a, b)
    assert operation == macs.Operation("", "dot_general", 2 * 3 * 7 * 4 * 5, 2)
    vectors = jax.ShapeDtypeStruct((9,), jnp.float32)
    assert macs.total(counted(jnp.vdot, vectors, vectors)) == 9
    assert not counted(lambda x: jnp.sin(x) * x + x.sum(), SQUARE)


def product(x):
    return x @ x


def with_vjp(x):
    function = jax.custom_vjp(product)
    function.defvjp(lambda x: (x @ x @ x, None), lambda _, g: (g,))
    return function(x)


def with_jvp(x):
    function = jax.custom_jvp(product)
    function.defjvp(lambda primals, tangents: (product(*primals), tangents[0]))
    return function(x)


def with_vmap(x):
    function = jax.custom_batching.custom_vmap(product)
    function.def_vmap(lambda size, batched, x: (x @ x, True))
    return function(x)


def with_shards(x):
    mesh = AbstractMesh((5,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    return jax.shard_map(lambda y: y.T @ y, mesh=mesh, in_specs=spec, out_specs=spec)(x)


@pytest.mark.parametrize(
    "function, times",
    [
        (jax.jit(lambda x: jax.jit(product)(x @ x)), 2),
        (with_vjp, 1),
        (with_jvp, 1),
        (with_vmap, 1),
        (jax.checkpoint(product), 1),
        (lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, length=7)[0], 7),
        (
            lambda x: jax.lax.scan(
                lambda c, _: (jax.lax.fori_loop(0, 3, lambda _, d: d @ x, c), None), x, length=7
            )[0],
            21,
        ),
        (lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, product, x), 2),
        (lambda x: jax.lax.switch(1, [product, lambda y: y, with_vjp], x), 1),
        (lambda x: jax.vmap(product)(jnp.stack([x] * 4)), 4),
        (lambda x: jax.grad(lambda y: product(y).sum())(x), 3),
        (with_shards, 1),  # five devices with a row each: 5 (5 x 1) (1 x 5)
    ],
    ids=[
        "jit",
        "custom_vjp",
        "custom_jvp",
        "custom_vmap",
        "remat",
        "scan",
        "nested loops",
        "cond",
        "switch",
        "vmap",
        "gradient",
        "shard_map",
    ],
)
def test_what_calls_other_functions(function, times):
    operations = counted(function, SQUARE)
    assert macs.total(operations) == times * ONE
    assert not any(operation.unbounded for operation in operations)


def test_a_loop_of_unknown_length_counts_as_one_round_and_says_so():
    operations = counted(
        lambda x: jax.lax.while_loop(lambda y: (y @ y)[0, 0] < 9, jax.jit(product), x @ x), SQUARE
    )
    assert macs.total(operations) == 3 * ONE
    assert [operation.unbounded for operation in operations] == [False, True, True]


def test_labels_reach_into_functions_that_are_traced_once():
    shared = jax.jit(product)

    def inner(x):
        with macs.label("inner 5"):
            return shared(x)

    def function(x):
        x = shared(x)
        with macs.label("a.b"):
            x = shared(x)
            x = jax.vmap(shared)(x[None])[0]
            x = jax.lax.scan(lambda c, _: (inner(c), None), x, length=2)[0]
            x = jax.vmap(inner)(x[None])[0]
        with macs.label("c"), jax.named_scope("another"):
            return nn.relu(with_vjp(x))

    found = [(operation.label, operation.macs // ONE) for operation in counted(function, SQUARE)]
    assert found == [("", 1), ("a.b", 1), ("a.b", 1), ("inner 5", 2), ("inner 5", 1), ("c", 1)]


def test_a_choice_by_platform_counts_once():
    layer = layers.Conv(4, 3, bias=False)
    x = jax.ShapeDtypeStruct((2, 6, 5, 32), jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    found = counted(jax.grad(lambda p, x: layer.apply(p, x).sum(), (0, 1)), params, x)
    assert [o.macs for o in found] == 3 * [2 * 6 * 5 * 4 * 9 * 32]
    assert not any(o.unbounded for o in found)
