import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import standin

from jaxseg.training import freeze, optimizer

PARAMS = {
    "backbone": {"stem": {"kernel": jnp.ones((2, 2))}, "stage10": {"kernel": jnp.full((3,), 2.0)}},
    "head": {
        "dense": {"kernel": jnp.full((4,), 3.0), "bias": jnp.ones((2,))},
        "norm": {"scale": jnp.full((5,), 4.0), "bias": jnp.full((5,), 5.0)},
    },
}


def config_with(**optim):
    config = standin.make_config(batch_size=16)
    config.optim.update(base_batch_size=16, clip_norm=0.0, **optim)
    return config


def norm(tree):
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)))


def rates(config, count):
    schedule = optimizer.make_schedule(config)
    return [float(schedule(i)) for i in range(count)]


def test_warmup_and_steps_have_detectron2s_values():
    config = config_with(lr=5.0, warmup_steps=5, warmup_factor=0.001, milestones=(10, 15, 20))
    wanted = [0.005, 1.004, 2.003, 3.002, 4.001] + [5.0] * 5 + [0.5] * 5 + [0.05] * 5 + [0.005]
    np.testing.assert_allclose(rates(config, 21), wanted, rtol=1e-6)


def test_cosine_has_detectron2s_values():
    config = config_with(lr=5.0, warmup_steps=0, schedule="cosine")
    config.train.steps = 30
    wanted = [2.5 * (1 + np.cos(np.pi * k / 30)) for k in range(31)]
    np.testing.assert_allclose(rates(config, 31), wanted, rtol=1e-5, atol=1e-6)


def test_rate_follows_the_batch_size_and_is_told_in_words():
    config = config_with(lr=0.02, warmup_steps=0, milestones=(4, 99))
    config.train.batch_size = 8
    assert rates(config, 1) == [pytest.approx(0.01)]
    words = optimizer.describe(config)
    assert "0.01 = 0.02 x 8 images a step / 16" in words
    assert words.endswith("times 0.1 at step 4")


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        (dict(schedule="poly"), "allowed are step, cosine"),
        (dict(milestones=(8, 4)), "steps that ascend"),
        (dict(momentum=1.0), ">= 0 and < 1"),
        (dict(accumulate=0), "a whole number >= 1"),
        (dict(lr=float("nan")), "a number > 0"),
        (dict(lr=0.0), "a number > 0"),
        (dict(ema=1.0), "< 1"),
    ],
)
def test_meaningless_settings_are_named(optim, message):
    with pytest.raises(ValueError, match=message):
        optimizer.make_schedule(config_with(**optim))


def test_norms_do_not_decay_and_biases_do():
    config = config_with(lr=1.0, warmup_steps=0, weight_decay=0.1, momentum=0.0, milestones=())
    transform, _ = optimizer.make(config, PARAMS)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = transform.update(zeros, transform.init(PARAMS), PARAMS)
    new = optax.apply_updates(PARAMS, updates)
    for path, after, before in [
        (p, a, b)
        for (p, a), b in zip(
            jax.tree_util.tree_leaves_with_path(new), jax.tree.leaves(PARAMS), strict=True
        )
    ]:
        factor = 1.0 if "/norm/" in freeze.path_string(path) else 0.9
        np.testing.assert_allclose(after, factor * before, rtol=1e-6, err_msg=str(path))


def test_momentum_and_decay_are_those_of_torch():
    # torch.optim.SGD(lr=.1, momentum=.9, weight_decay=.01) on p = 1 with gradients 1, 1: v = 1.01, then
    # v = .9 * 1.01 + 1 + .01 * .899 = 1.91799; p = 1 - .101 - .191799.
    config = config_with(lr=0.1, warmup_steps=0, weight_decay=0.01, momentum=0.9, milestones=())
    params = {"a": {"kernel": jnp.ones(())}}
    transform, _ = optimizer.make(config, params)
    state = transform.init(params)
    for _ in range(2):
        updates, state = transform.update({"a": {"kernel": jnp.ones(())}}, state, params)
        params = optax.apply_updates(params, updates)
    assert float(params["a"]["kernel"]) == pytest.approx(0.707201, abs=1e-6)


def test_clipping_sees_the_global_norm_of_what_trains():
    config = config_with(lr=1.0, warmup_steps=0, weight_decay=0.0, momentum=0.0, milestones=())
    config.optim.clip_norm = 1.0
    config.freeze = ("backbone",)
    transform, _ = optimizer.make(config, PARAMS)
    gradients = jax.tree.map(lambda x: jnp.full_like(x, 7.0), PARAMS)
    updates, _ = transform.update(gradients, transform.init(PARAMS), PARAMS)
    assert float(norm(updates["head"])) == pytest.approx(1.0, rel=1e-5)
    assert float(norm(updates["backbone"])) == 0.0


def test_frozen_parameters_have_no_state():
    config = config_with(milestones=())
    config.freeze = ("backbone/stem", "head/norm")
    transform, _ = optimizer.make(config, PARAMS)
    shapes = [x.shape for x in jax.tree.leaves(transform.init(PARAMS)) if x.shape]
    assert sorted(shapes) == [(2,), (3,), (4,)]  # momentum of stage10 and of head/dense


def test_a_pattern_names_whole_components():
    config = config_with(milestones=())
    config.freeze = ("backbone/stage1",)
    with pytest.raises(
        ValueError, match=r"no parameter lies under 'backbone/stage1'.*backbone, head"
    ):
        optimizer.make(config, PARAMS)


def test_a_run_must_train_something():
    config = config_with(milestones=())
    config.freeze = ("backbone", "head")
    with pytest.raises(ValueError, match="nothing is left to train"):
        optimizer.make(config, PARAMS)
