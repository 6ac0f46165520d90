import functools
import os
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import standin

from jaxseg.structures import Batch, Targets
from jaxseg.training import optimizer, sharding, state, step

BATCH = 4


def random_batch(count=BATCH, seed=0):
    rng = np.random.default_rng(seed)
    return Batch(
        images=rng.integers(0, 256, (count, 64, 64, 3), np.uint8),
        image_size=np.full((count, 2), 64, np.float32),
        valid=np.ones(count, bool),
        targets=Targets(
            boxes=np.zeros((count, 6, 4), np.float32),
            classes=rng.integers(0, 3, (count, 6)).astype(np.int32),
            valid=rng.random((count, 6)) < 0.5,
            masks=np.zeros((count, 6, 16, 2), np.uint8),
            crowd_boxes=np.zeros((count, 1, 4), np.float32),
            crowd_valid=np.zeros((count, 1), bool),
        ),
    )


def start(config, model, *, mesh=None, **options):
    """(state, step function, mesh)."""
    mesh = mesh or sharding.make_mesh(jax.devices()[:1])
    init = functools.partial(
        state.init_variables, model, state.example_batch(config, mesh.size), config.seed
    )
    params, stats = jax.jit(init)()
    transform, schedule = optimizer.make(config, params)
    first = state.create(params, stats, transform, ema=config.optim.ema > 0)
    first = jax.device_put(first, sharding.replicated(mesh))
    options = {"ema": config.optim.ema, "freeze": tuple(config.freeze), **options}
    return first, step.make_train_step(model, transform, schedule, mesh, **options), mesh


def run(config, model, steps=1, batch=None, **options):
    """(state on the host, metrics of each step)."""
    now, step_fn, mesh = start(config, model, **options)
    batch = sharding.put_batch(random_batch() if batch is None else batch, mesh)
    logs = []
    with jax.set_mesh(mesh):
        for _ in range(steps):
            now, log = step_fn(now, batch)
            logs.append(jax.device_get(log))
    assert step_fn.func._cache_size() == 1
    return jax.device_get(now), logs


def assert_same(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.fixture(scope="module")
def four_states():
    """(states 0..3 on the host, metrics of the steps between them)"""
    now, step_fn, mesh = start(standin.make_config(), standin.Standin(3))
    states, logs = [jax.device_get(now)], []
    for _ in range(3):
        now, log = step_fn(now, sharding.put_batch(random_batch(), mesh))
        states.append(jax.device_get(now))
        logs.append(jax.device_get(log))
    assert step_fn.func._cache_size() == 1
    return states, logs


def test_losses_and_rates_are_logged(four_states):
    states, logs = four_states
    assert int(states[-1].step) == 3
    assert set(logs[0]) == {"loss", "count", "size", "grad_norm", "lr", "finite"}
    np.testing.assert_allclose([x["lr"] for x in logs], [5e-5, 0.0167, 0.03335], rtol=1e-2)


def test_loss_falls():
    config = standin.make_config()
    config.optim.update(warmup_steps=0)
    _, logs = run(config, standin.Standin(3, noise=0.0), 8)
    assert logs[-1]["loss"] < logs[0]["loss"]


def test_statistics_move(four_states):
    assert np.abs(four_states[0][1].batch_stats["norm1"]["mean"]).max() > 0


def test_average_follows_the_parameters(four_states):
    states, _ = four_states
    average = states[0].params
    for count, now in enumerate(states[1:]):
        decay = min(0.9, (1 + count) / (10 + count))
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, now.params)
    assert_same(states[-1].ema, average, rtol=1e-5, atol=1e-7)


def test_frozen_parameters_and_statistics_keep_their_bits():
    config = standin.make_config()
    config.freeze = ("stem", "norm1")
    first, _, _ = start(config, standin.Standin(3))
    first = jax.device_get(first)
    now, _ = run(config, standin.Standin(3), 2)
    for name in config.freeze:
        assert_same(now.params[name], first.params[name], rtol=0, atol=0)
    assert_same(now.batch_stats, first.batch_stats, rtol=0, atol=0)
    assert not np.array_equal(now.params["body"]["kernel"], first.params["body"]["kernel"])


def test_accumulated_parts_give_the_step_of_the_whole_batch():
    config = standin.make_config()
    model = standin.Standin(3, norm="none", noise=0.0)
    whole, [log] = run(config, model)
    parts, [log_parts] = run(config, model, accumulate=2)
    assert_same(parts.params, whole.params, rtol=1e-5, atol=1e-6)
    assert_same(log_parts, log, rtol=1e-5)


class Explodes(nn.Module):
    """Its loss is what `how` says at step 1."""

    how: float

    @nn.compact
    def losses(self, batch, key, step):
        del batch, key
        w = self.param("w", nn.initializers.ones, (2,))
        seen = self.variable("batch_stats", "seen", lambda: jnp.zeros(()))
        seen.value = seen.value + 1
        loss = jnp.where(step == 1, self.how, 1.0) * w.sum()
        return loss, {}


@pytest.mark.parametrize("how", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(how):
    config = standin.make_config()
    config.optim.warmup_steps = 0
    one, _ = run(config, Explodes(how), 1)
    two, logs = run(config, Explodes(how), 2)
    assert [bool(x["finite"]) for x in logs] == [True, False]
    assert int(two.step) == 2
    assert_same(two.replace(step=one.step), one, rtol=0, atol=0)
    assert not np.array_equal(one.params["w"], np.ones(2))


def test_eight_devices_give_what_one_gives():
    code = """
import jax
jax.config.update("jax_enable_x64", True)
import test_step, standin, numpy as np
from jaxseg.training import sharding
config = standin.make_config(batch_size=16)
batch = test_step.random_batch(16)
results = []
for count in (1, 8):
    mesh = sharding.make_mesh(jax.devices()[:count])
    results.append(test_step.run(config, standin.Standin(3), 2, batch, mesh=mesh, accumulate=2))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *results)
print("same")
"""
    here = pathlib.Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": f"{here}:{here.parent.parent}",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            "JAX_PLATFORMS": "cpu",
        },
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("same\n"), done.stderr[-3000:]


@pytest.mark.parametrize(
    ("batch", "accumulate", "message"),
    [
        (6, 1, r"train.batch_size=6 is not divisible by 4 devices. Take 4 or 8"),
        (4, 2, r"not divisible by 4 devices x optim.accumulate=2. Take 8"),
        (0, 1, "not divisible"),
    ],
)
def test_a_batch_that_does_not_split_is_refused_with_the_numbers(batch, accumulate, message):
    class FourDevices:
        size = 4

    with pytest.raises(ValueError, match=message):
        sharding.check_batch(batch, accumulate, FourDevices(), key="train.batch_size")
