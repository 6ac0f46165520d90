"""What a training run carries from step to step."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int
from ml_collections import ConfigDict

from jaxseg import structures


@flax.struct.dataclass
class TrainState:
    """Everything that a resumed run needs. The data state is `step` itself."""

    step: Int[Array, ""]  # steps that are done; also the index of the next batch
    params: Any
    batch_stats: Any  # {} if the model keeps no statistics
    opt_state: optax.OptState
    ema: Any  # averaged parameters; {} if they are not kept


def example_batch(config: ConfigDict, batch_size: int = 1) -> structures.Batch:
    """A batch of zeros in the shapes of the first bucket, to initialise a model with."""
    height, width = next(iter(config.data.buckets))
    objects, crowds = config.data.max_instances, config.data.max_crowds
    side = config.data.mask_crop_size
    b = batch_size
    masks = jnp.zeros((b, objects, side, side // 8), jnp.uint8)
    return structures.Batch(
        images=jnp.zeros((b, height, width, 3), jnp.uint8),
        image_size=jnp.tile(jnp.asarray([height, width], jnp.float32), (b, 1)),
        valid=jnp.ones((b,), bool),
        targets=structures.Targets(
            boxes=jnp.zeros((b, objects, 4), jnp.float32),
            classes=jnp.zeros((b, objects), jnp.int32),
            valid=jnp.zeros((b, objects), bool),
            masks=masks,
            crowd_boxes=jnp.zeros((b, crowds, 4), jnp.float32),
            crowd_valid=jnp.zeros((b, crowds), bool),
            eroded=masks if config.data.get("eroded_masks") else None,
        ),
    )


def init_variables(model: nn.Module, batch: structures.Batch, seed: int) -> tuple[Any, Any]:
    """(params, batch_stats) of a fresh model; call it under `jax.jit` or `jax.eval_shape`."""
    # XLA's own generator: forty threefry draws took 16 s to compile on a CPU, these 5 s.
    key = jax.random.key(seed, impl="rbg")
    variables = model.init(key, batch, key, jnp.int32(0), method="losses")
    return variables["params"], variables.get("batch_stats", {})


def create(
    params: Any, batch_stats: Any, transform: optax.GradientTransformation, *, ema: bool
) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        opt_state=transform.init(params),
        # A copy of its own: the step donates the state, and a buffer can be given away only once.
        ema=jax.tree.map(jnp.copy, params) if ema else {},
    )


def variables_for_eval(state: TrainState) -> dict[str, Any]:
    """The variables that are evaluated: averaged parameters where they are kept."""
    params = state.ema if state.ema else state.params
    return {"params": params, "batch_stats": state.batch_stats}
