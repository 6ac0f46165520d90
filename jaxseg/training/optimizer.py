"""SGD with momentum as in Detectron2: warm-up, step or cosine schedule, decay on all but norms.

The learning rate of the config belongs to `optim.base_batch_size` images a step and is scaled
linearly to the batch size that is used. Milestones and warm-up are steps and are not scaled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxseg.training import freeze as freezing

Schedule = Callable[[Any], Any]
SCHEDULES = ("step", "cosine")


def peak_rate(config: ConfigDict) -> float:
    """The learning rate after warm-up: `optim.lr * train.batch_size / optim.base_batch_size`."""
    return config.optim.lr * config.train.batch_size / config.optim.base_batch_size


def make_schedule(config: ConfigDict) -> Schedule:
    """Returns step (0 for the first) -> learning rate, float32; works on numbers and on traced arrays.

    Raises:
      ValueError: an unknown schedule, milestones that do not ascend, or numbers out of range.
    """
    optim, steps = config.optim, config.train.steps
    _check(config)
    peak, milestones = peak_rate(config), jnp.asarray(tuple(optim.milestones), jnp.int32)

    def schedule(step: Any) -> jax.Array:
        step = jnp.asarray(step)
        if optim.schedule == "step":
            factor = jnp.float32(optim.gamma) ** jnp.sum(step >= milestones)
        else:
            factor = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(step / steps, 1.0)))
        if optim.warmup_steps:
            ramp = jnp.minimum(step / optim.warmup_steps, 1.0)
            factor = factor * (optim.warmup_factor * (1.0 - ramp) + ramp)
        return jnp.float32(peak) * factor.astype(jnp.float32)

    return schedule


def make(config: ConfigDict, params: Any) -> tuple[optax.GradientTransformation, Schedule]:
    """The update rule and its schedule for `params` (arrays or shapes).

    Frozen parameters (`config.freeze`) get no update, no decay and no optimizer state; clipping by the
    global norm sees the others only. Norm parameters get no decay.

    Raises:
      ValueError: see `make_schedule` and `freeze.check`.
    """
    schedule = make_schedule(config)
    patterns = tuple(config.freeze)
    freezing.check(params, patterns)
    norms = norm_paths(params)
    optim = config.optim

    def decayed(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: freezing.path_string(path) not in norms, tree
        )

    sgd = optax.chain(
        optax.clip_by_global_norm(optim.clip_norm) if optim.clip_norm else optax.identity(),
        optax.add_decayed_weights(optim.weight_decay, mask=decayed),
        optax.trace(decay=optim.momentum),
        optax.scale_by_learning_rate(schedule),
    )
    transform = optax.partition(
        {freezing.TRAIN: sgd, freezing.FROZEN: optax.set_to_zero()},
        lambda tree: freezing.labels(tree, patterns),
    )
    return transform, schedule


def norm_paths(params: Any) -> frozenset[str]:
    """Paths of what decays not: parameters of normalisation layers, all that lies beside a `scale`, and PReLU's slopes.

    Decay would pull a slope towards a ReLU (He et al. 2015, section 3.1).
    """
    paths = [freezing.path_string(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    owners = {p.rpartition("/")[0] for p in paths if p.rpartition("/")[2] == "scale"}
    slopes = {p for p in paths if p.rpartition("/")[2] == "slope"}
    return frozenset(p for p in paths if p.rpartition("/")[0] in owners) | slopes


def describe(config: ConfigDict) -> str:
    """The learning-rate rule in words, with the numbers of this config."""
    optim, train = config.optim, config.train
    words = (
        f"learning rate {peak_rate(config):.4g} = {optim.lr:g} x {train.batch_size} images a step"
        f" / {optim.base_batch_size} (linear scaling)"
    )
    if optim.warmup_steps:
        words += f"; warm-up over {optim.warmup_steps} steps from {optim.warmup_factor:g} of it"
    if optim.schedule == "cosine":
        return words + f"; cosine to 0 at step {train.steps}"
    drops = [m for m in optim.milestones if m < train.steps]
    if drops:
        words += f"; times {optim.gamma:g} at step {', '.join(map(str, drops))}"
    return words


def _check(config: ConfigDict) -> None:
    optim = config.optim
    if optim.schedule not in SCHEDULES:
        raise ValueError(
            f"config.optim.schedule={optim.schedule!r}: allowed are {', '.join(SCHEDULES)}."
        )
    milestones = tuple(optim.milestones)
    ascend = list(milestones) == sorted(set(milestones))
    if not ascend or any(not isinstance(m, int) or m < 0 for m in milestones):
        raise ValueError(
            f"config.optim.milestones={milestones}: must be whole numbers of steps that ascend."
        )
    for key in ("base_batch_size", "accumulate", "warmup_steps"):
        least = 0 if key == "warmup_steps" else 1
        if not isinstance(optim[key], int) or optim[key] < least:
            raise ValueError(
                f"config.optim.{key}={optim[key]!r}: must be a whole number >= {least}."
            )
    inside = {
        "lr": ("> 0", lambda x: x > 0),
        "gamma": ("> 0", lambda x: x > 0),
        "momentum": (">= 0 and < 1", lambda x: 0 <= x < 1),
        "weight_decay": (">= 0", lambda x: x >= 0),
        "clip_norm": (">= 0 (0: none)", lambda x: x >= 0),
        "warmup_factor": ("from 0 to 1", lambda x: 0 <= x <= 1),
        "ema": (">= 0 (0: none) and < 1", lambda x: 0 <= x < 1),
    }
    for key, (allowed, holds) in inside.items():
        value = optim[key]
        if not isinstance(value, int | float) or not math.isfinite(value) or not holds(value):
            raise ValueError(f"config.optim.{key}={value!r}: must be a number {allowed}.")
