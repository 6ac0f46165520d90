"""One training step: gradients (in parts if asked for), update, averages; jitted, donated, sharded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from jaxseg import structures
from jaxseg.methods import views
from jaxseg.modeling import mask_head, norms
from jaxseg.training import freeze as freezing
from jaxseg.training import sharding
from jaxseg.training.state import TrainState

Metrics = dict[str, jax.Array]


def make_train_step(
    model: nn.Module,
    transform: optax.GradientTransformation,
    schedule: Callable[[Any], Any],
    mesh: Mesh,
    *,
    seed: int = 0,
    freeze: Sequence[str] = (),
    accumulate: int = 1,
    ema: float = 0.0,
    shardings: TrainState | None = None,
) -> Callable[[TrainState, structures.Batch], tuple[TrainState, Metrics]]:
    """Builds `step(state, batch) -> (state, metrics)`; the state passed in is given away.

    The batch is split over the mesh and the loss is that of the whole batch, whatever the number of devices.
    With `accumulate` = A, part k holds the images k, k + A, k + 2A, ... (so that no image changes its device);
    the gradient is the mean over the parts, each normalised by itself, and statistics pass from part to part.
    The state lies, before and after, as `shardings` say (`sharding.of_state`); by default whole on each device.

    metrics: every loss of the model, `loss` (the total), `grad_norm` (before clipping), `lr`, and `finite`.
    Where the loss or the gradient is not finite, `finite` is False and nothing but `step` changes.
    """

    def loss_fn(params, batch_stats, batch, key, step):
        params = sharding.gathered(params, mesh)
        variables = {"params": freezing.stop_gradient(params, freeze), "batch_stats": batch_stats}
        with norms.frozen(freeze):
            (total, log), updates = model.apply(
                variables, batch, key, step, method="losses", mutable=["batch_stats"]
            )
        return total, ({"loss": total, **log}, updates.get("batch_stats", batch_stats))

    def grad_fn(*args):
        (_, (log, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(*args)
        return sharding.scattered(grads, mesh), stats, log

    def gradients(state, batch, key):
        if accumulate == 1:
            return grad_fn(state.params, state.batch_stats, batch, key, state.step)

        def part(carry, index_and_batch):
            total, stats = carry
            index, batch = index_and_batch
            part_key = jax.random.fold_in(key, index)
            grads, stats, log = grad_fn(state.params, stats, batch, part_key, state.step)
            return (jax.tree.map(jnp.add, total, grads), stats), log

        zeros = sharding.scattered(jax.tree.map(jnp.zeros_like, state.params), mesh)
        parts = jax.tree.map(lambda x: _split(x, accumulate), batch)
        (total, stats), logs = jax.lax.scan(
            part, (zeros, state.batch_stats), (jnp.arange(accumulate), parts)
        )
        grads = jax.tree.map(lambda g: g / accumulate, total)
        return grads, stats, jax.tree.map(lambda x: jnp.mean(x, axis=0), logs)

    def step(state: TrainState, batch: structures.Batch, seed) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        grads, batch_stats, log = gradients(state, batch, key)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)))
        finite = jnp.isfinite(norm) & jnp.isfinite(log["loss"])
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = state.replace(
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema=_average(state.ema, params, ema, state.step),
        )
        # One bad step must not ruin what many good ones made; the loop stops when it sees the flag.
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        log |= {"grad_norm": norm, "lr": schedule(state.step), "finite": finite}
        return new.replace(step=state.step + 1), log

    whole = sharding.replicated(mesh)
    compiled = jax.jit(step, donate_argnums=0, out_shardings=(shardings or whole, whole))
    # No constant of the program: runs with other seeds share what was compiled (JAX_COMPILATION_CACHE_DIR).
    number = jax.device_put(np.uint32(seed), whole)
    return functools.partial(compiled, seed=number)


def make_detect(
    model: nn.Module, mesh: Mesh, *, maps: bool = False
) -> Callable[[Any, structures.Batch | structures.Views], structures.Detections]:
    """Builds `detect(variables, batch of NumPy arrays) -> Detections`, split over the mesh; with all `maps` or none.

    A batch of several views (`structures.Views`) gives detections in the pixels of the first one.
    """

    @jax.jit
    def detect(variables, batch):
        several = isinstance(batch, structures.Views)
        apply = functools.partial(model.apply, method=views.detect if several else "detect")
        if not maps:
            return apply(variables, batch)
        found, seen = apply(variables, batch, mutable=["intermediates"])
        heads = seen["intermediates"]["roi_heads"]
        every = views.maps_of(heads, batch) if several else mask_head.maps_of(heads)
        return found.replace(maps=every)

    return lambda variables, batch: detect(variables, sharding.put_batch(batch, mesh))


def _split(x: jax.Array, parts: int) -> jax.Array:
    x = jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(None, sharding.batch_axes(mesh)))


def _average(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
    if not average:
        return average
    # Short memory first, so that the initial values are soon forgotten.
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    # In this form the average of what does not change does not change either.
    return jax.tree.map(lambda a, p: (a + (1.0 - decay) * (p - a)).astype(a.dtype), average, params)
