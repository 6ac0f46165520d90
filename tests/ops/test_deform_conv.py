"""Deformable convolution against a loop in float64, plain convolutions, and differences."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops import deform_conv as deform_conv_lib

deform_conv = jax.jit(
    deform_conv_lib.deform_conv, static_argnames=("stride", "padding", "dilation")
)


def bilinear(plane, y, x):
    """The value of a map at (y, x), zero outside."""
    total, (height, width) = 0.0, plane.shape
    for row, column in itertools.product(
        *((int(np.floor(v)), int(np.floor(v)) + 1) for v in (y, x))
    ):
        if 0 <= row < height and 0 <= column < width:
            total += plane[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def loop(inputs, offsets, kernel, mask=None, *, stride=1, padding=0, dilation=1):
    kh, kw, depth, features = kernel.shape
    channels = inputs.shape[-1]
    offsets = offsets.reshape(*offsets.shape[:3], -1, kh, kw, 2)
    mask = np.ones(offsets.shape[:-1]) if mask is None else mask.reshape(offsets.shape[:-1])
    out = np.zeros((*offsets.shape[:3], features))
    for b, p, q in np.ndindex(*offsets.shape[:3]):
        for i, j, c in np.ndindex(kh, kw, channels):
            at = (b, p, q, c * offsets.shape[3] // channels, i, j)
            y = p * stride - padding + i * dilation + offsets[at][0]
            x = q * stride - padding + j * dilation + offsets[at][1]
            sample = bilinear(inputs[b, :, :, c], y, x) * mask[at]
            group = c // depth  # the features of this group of channels
            part = slice(group * features * depth // channels, None)
            part = slice(part.start, part.start + features * depth // channels)
            out[b, p, q, part] += sample * kernel[i, j, c % depth, part]
    return out


def arrays(*, groups=1, deform_groups=1, stride=1, padding=1, dilation=1, far=1.0, taps=(3, 3)):
    """inputs, offsets, kernel, mask in float64."""
    rng = np.random.default_rng(0)
    height, width = (
        (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        for n, k in zip((5, 6), taps, strict=True)
    )
    samples = deform_groups * taps[0] * taps[1]
    return (
        rng.normal(size=(2, 5, 6, 4)),
        rng.normal(0, far, (2, height, width, 2 * samples)),
        rng.normal(size=(*taps, 4 // groups, 6)),
        rng.uniform(size=(2, height, width, samples)),
    )


def in_float32(values):
    return tuple(jnp.asarray(v, jnp.float32) for v in values)


CASES = [
    {},
    {"groups": 2, "deform_groups": 4, "far": 2.0},
    {"stride": 2, "dilation": 2, "padding": 2, "deform_groups": 2, "far": 3.0},
    {"padding": 0, "far": 30.0, "taps": (1, 3)},
]


def numbers_of(case):
    return {k: v for k, v in case.items() if k in ("stride", "dilation")} | {
        "padding": case.get("padding", 1)
    }


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("modulated", [True, False])
def test_equals_a_loop(case, modulated):
    values = arrays(**case)[: 4 if modulated else 3]
    expected = loop(*values, **numbers_of(case))
    found = deform_conv(*in_float32(values), **numbers_of(case))
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("case", CASES[1:3], ids=str)
def test_without_offsets_it_is_the_plain_convolution(case):
    inputs, offsets, kernel, _ = in_float32(arrays(**case))
    pad, dilation = case.get("padding", 1), case.get("dilation", 1)
    plain = jax.lax.conv_general_dilated(
        inputs,
        kernel,
        (case.get("stride", 1),) * 2,
        ((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=case.get("groups", 1),
        precision="highest",
    )
    found = deform_conv(inputs, jnp.zeros_like(offsets), kernel, **numbers_of(case))
    np.testing.assert_allclose(found, plain, atol=1e-5)


def test_whole_offsets_shift_the_map():
    inputs, offsets, kernel, _ = in_float32(arrays())
    offsets = jnp.tile(jnp.array([1.0, -2.0]), offsets.shape[-1] // 2) + jnp.zeros_like(offsets)
    shifted = jnp.zeros_like(inputs).at[:, :-1, 2:].set(inputs[:, 1:, :-2])
    found = deform_conv(inputs, offsets, kernel, padding=1)
    expected = deform_conv(shifted, jnp.zeros_like(offsets), kernel, padding=1)
    # The outermost cells of the result see what the shift pushed out of the map.
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-5)


def test_gradients_of_everything_equal_differences_of_the_loop():
    case = {"groups": 2, "deform_groups": 2, "stride": 2, "far": 2.0}
    values = arrays(**case)
    # Away from whole positions, where bilinear interpolation has two gradients.
    offsets = values[1]
    offsets[...] = np.floor(offsets) + np.clip(offsets % 1, 0.1, 0.9)
    rng = np.random.default_rng(1)
    cotangent = rng.normal(size=(*offsets.shape[:3], 6))
    with jax.enable_x64(True):
        call = functools.partial(deform_conv_lib.deform_conv, **numbers_of(case))
        pull = jax.jit(lambda values, d: jax.vjp(call, *values)[1](d))
        gradients = pull(tuple(map(jnp.asarray, values)), jnp.asarray(cotangent))
    for k, gradient in enumerate(gradients):
        direction = rng.normal(size=values[k].shape)

        def moved(step, k=k, direction=direction):
            there = list(values)
            there[k] = values[k] + step * direction
            return (loop(*there, **numbers_of(case)) * cotangent).sum()

        slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
        assert (np.asarray(gradient) * direction).sum() == pytest.approx(slope, rel=1e-6)


def test_gradient_at_whole_positions_is_that_towards_larger_ones():
    inputs = jnp.array([0.0, 1.0, 5.0, 0.0]).reshape(1, 1, 4, 1)
    one = jnp.ones((1, 1, 1, 1))
    total = lambda offsets: deform_conv(inputs, offsets, one).sum()  # noqa: E731
    gradient = jax.jit(jax.grad(total))(jnp.zeros((1, 1, 4, 2)))
    np.testing.assert_array_equal(gradient[0, 0, :, 1], [1.0, 4.0, -5.0, 0.0])
    np.testing.assert_array_equal(gradient[0, 0, :, 0], [0.0, -1.0, -5.0, 0.0])


def test_offsets_far_outside_read_zero_and_have_no_gradient():
    inputs, offsets, kernel, mask = in_float32(arrays())
    far = jnp.asarray(np.random.default_rng(1).choice([-1e9, 1e9, -np.inf, np.inf], offsets.shape))

    def total(*values):
        return (deform_conv(*values, padding=1) ** 2).sum()

    value, gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2, 3)))(
        inputs, far.astype(jnp.float32), kernel, mask
    )
    assert value == 0 and not any(np.any(g) for g in gradients)  # NaN would count as any


def test_bfloat16_keeps_positions_and_sums_in_float32():
    inputs, offsets, kernel, mask = in_float32(arrays())
    half = functools.partial(jnp.asarray, dtype=jnp.bfloat16)
    rounded = [half(v).astype(jnp.float32) for v in (inputs, kernel)]
    expected = deform_conv(rounded[0], offsets, rounded[1], mask, padding=1)

    @jax.jit
    def both(inputs, kernel):
        out, pull = jax.vjp(lambda x: deform_conv(x, offsets, kernel, mask, padding=1), inputs)
        return out, pull(jnp.ones_like(out))[0]

    found, gradient = both(half(inputs), half(kernel))
    assert found.dtype == gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": (2, 4, 6, 18)}, r"offsets are of \(4, 6\) cells.* gives \(5, 6\)"),
        ({"offsets": (2, 5, 6, 9)}, "9 channels of offsets; allowed are multiples of 2"),
        ({"offsets": (2, 5, 6, 54)}, "so many that the groups divide 4 channels"),
        ({"kernel": (3, 3, 3, 6)}, "does not divide 4 channels"),
        ({"kernel": (3, 3, 2, 5)}, "must be a multiple of 4 / 2"),
        ({"mask": (2, 5, 6, 18)}, r"mask of shape .*; it must be \(2, 5, 6, 9\)"),
    ],
)
def test_shapes_that_do_not_go_together_are_named(change, message):
    shapes = {"inputs": (2, 5, 6, 4), "offsets": (2, 5, 6, 18), "kernel": (3, 3, 4, 6)} | change
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            functools.partial(deform_conv_lib.deform_conv, padding=1),
            **{k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()},
        )
