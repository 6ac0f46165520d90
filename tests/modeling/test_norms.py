"""Norms: padded elements are absent, and nothing valid leaves the statistics alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.modeling import norms

_CLASSES = [norms.BatchNorm, norms.GroupNorm]


def _run(module, x, mask=None, train=True, variables=None):
    x, mask = jnp.asarray(x), None if mask is None else jnp.asarray(mask)
    variables = variables or module.init(jax.random.key(0), x, train=False)
    out, updates = module.apply(variables, x, mask=mask, train=train, mutable=["batch_stats"])
    return out, updates


def test_batch_norm_is_the_textbook_formula():
    x = np.random.default_rng(0).normal(2, 3, (4, 5, 6, 8)).astype(np.float32)
    out, updates = _run(norms.BatchNorm(), x)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(out, (x - mean) / np.sqrt(var + 1e-5), atol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * mean, atol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * var, rtol=1e-5)


def test_group_norm_equals_flax():
    x = np.random.default_rng(1).normal(1, 2, (3, 4, 5, 12)).astype(np.float32)
    theirs = nn.GroupNorm(num_groups=4, epsilon=1e-5)
    expected = theirs.apply(theirs.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(_run(norms.GroupNorm(groups=4), x)[0], expected, atol=1e-5)


def test_group_norm_takes_the_largest_divisor():
    x = np.random.default_rng(1).normal(1, 2, (2, 4, 4, 20)).astype(np.float32)
    ours, _ = _run(norms.GroupNorm(groups=32), x)
    theirs = nn.GroupNorm(num_groups=20, epsilon=1e-5)
    expected = theirs.apply(theirs.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("cls", _CLASSES)
def test_padding_equals_absence(cls):
    rng = np.random.default_rng(2)
    small = rng.normal(size=(2, 4, 4, 8)).astype(np.float32)
    large = rng.normal(size=(2, 6, 7, 8)).astype(np.float32) * 1e3
    large[:, :4, :4] = small
    mask = jnp.zeros((2, 6, 7), bool).at[:, :4, :4].set(True)
    module = cls()
    variables = module.init(jax.random.key(0), jnp.asarray(small), train=False)

    def weighted(x, mask):
        out, updates = module.apply(variables, x, mask=mask, train=True, mutable=["batch_stats"])
        return (out[:, :4, :4] * small[..., ::-1]).sum(), (out[:, :4, :4], updates)

    (_, (a, stats_a)), grad_a = jax.value_and_grad(weighted, has_aux=True)(jnp.asarray(small), None)
    (_, (b, stats_b)), grad_b = jax.value_and_grad(weighted, has_aux=True)(jnp.asarray(large), mask)
    np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(grad_a, grad_b[:, :4, :4], atol=1e-5)
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, atol=1e-6), stats_a, stats_b)


def test_batch_norm_without_a_valid_element_uses_and_keeps_the_running_statistics():
    x = 5 + jax.random.normal(jax.random.key(3), (2, 3, 3, 4))
    module = norms.BatchNorm()
    variables = module.init(jax.random.key(0), x, train=False)
    variables["batch_stats"] = {"mean": jnp.full(4, 3.0), "var": jnp.full(4, 2.0)}
    out, updates = _run(module, x, np.zeros((2, 3, 3), bool), True, variables)
    np.testing.assert_allclose(out, (x - 3) / np.sqrt(2 + 1e-5), atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])


def test_group_norm_of_a_sample_that_does_not_count_is_its_own():
    x = jax.random.normal(jax.random.key(6), (2, 3, 3, 8))
    mask = jnp.zeros((2, 3, 3), bool).at[0].set(True)
    np.testing.assert_allclose(_run(norms.GroupNorm(), x, mask)[0], _run(norms.GroupNorm(), x)[0])


def test_frozen_batch_norm_is_constant():
    x = jax.random.normal(jax.random.key(4), (2, 3, 3, 4))
    module = norms.FrozenBatchNorm()
    variables = module.init(jax.random.key(0), x)
    assert "params" not in variables
    variables = {
        "batch_stats": {
            "scale": jnp.full(4, 2.0),
            "bias": jnp.full(4, 1.0),
            "mean": jnp.full(4, 0.5),
            "var": jnp.full(4, 4.0 - 1e-5),
        }
    }
    np.testing.assert_allclose(module.apply(variables, x), x - 0.5 + 1.0, atol=1e-5)


def test_frozen_patterns_put_norms_in_test_mode():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return norms.BatchNorm(name="a")(x, train=True), norms.BatchNorm(name="b")(
                x, train=True
            )

    x = 3 + jax.random.normal(jax.random.key(5), (4, 4))
    module = Two()
    variables = module.init(jax.random.key(0), x)
    with norms.frozen(["a"]):
        (a, b), updates = module.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(a, x, atol=1e-4)
    np.testing.assert_allclose(b.mean(0), 0, atol=1e-5)
    assert (
        not updates["batch_stats"]["a"]["mean"].any() and updates["batch_stats"]["b"]["mean"].all()
    )


def test_unknown_norm_is_named():
    with pytest.raises(ValueError, match="norm='bn': allowed are frozen_bn, batch_norm"):
        norms.by_name("bn")


def test_a_batch_norm_in_evaluation_learns_scale_and_bias_only():
    x = np.random.default_rng(3).normal(2, 3, (4, 5, 8)).astype(np.float32)
    variables = {
        "params": {"scale": jnp.full(8, 2.0), "bias": jnp.ones(8)},
        "batch_stats": {"mean": jnp.full(8, 0.5), "var": jnp.full(8, 4.0)},
    }
    out, updates = _run(norms.EvalBatchNorm(), x, variables=variables)
    np.testing.assert_allclose(out, 2 * (x - 0.5) / np.sqrt(4 + 1e-5) + 1, atol=1e-5)
    np.testing.assert_array_equal(updates["batch_stats"]["mean"], 0.5)


@pytest.mark.parametrize("name", [name for name in norms.NORMS if name != "none"])
def test_epsilon_of_a_norm(name):
    norm = norms.by_name(name, 0.25)()
    assert norm.epsilon == 0.25 and norms.by_name(name)().epsilon == 1e-5
    x = np.random.default_rng(4).normal(size=(2, 3, 8)).astype(np.float32)
    out, _ = _run(norm, x, train=False)
    if name != "group_norm":  # statistics of a fresh norm: mean 0, variance 1
        np.testing.assert_allclose(out, x / np.sqrt(1.25), rtol=1e-5)


def test_no_norm_has_no_epsilon():
    assert norms.by_name("none", 0.25) is norms.Identity
