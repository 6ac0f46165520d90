"""What happens before the first step: the config's checks, the data, the classes, the first state."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from jaxseg import methods
from jaxseg.data import sources
from jaxseg.evaluation import coco
from jaxseg.training import checkpoints, optimizer, sharding, workdir
from jaxseg.training import state as states
from jaxseg.training.state import TrainState

GPU_DETERMINISM = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"


def checked(config: ConfigDict, base: ConfigDict | None) -> ConfigDict:
    """A copy of the config, after the checks that need nothing else."""
    if base is not None:
        workdir.check_keys(config, base)
    config = ConfigDict(config.to_dict())
    for key, least in dict(batch_size=1, steps=1, log_every=1, eval_every=0, save_every=1).items():
        value = config.train[key]
        if not isinstance(value, int) or value < least:
            raise ValueError(f"config.train.{key}={value!r}: must be a whole number >= {least}.")
    optimizer.make_schedule(config)
    coco.check_options(
        "bbox", max_detections=config.eval.max_detections, evaluator=config.eval.evaluator
    )
    if config.deterministic and jax.default_backend() == "gpu":
        missing = [f for f in GPU_DETERMINISM.split() if f not in os.environ.get("XLA_FLAGS", "")]
        if missing:
            raise ValueError(
                f"config.deterministic on GPU needs XLA_FLAGS='{GPU_DETERMINISM}' in the environment before jax starts "
                "(train.py sets it)."
            )
    return config


def open_data(config: ConfigDict, console: Console) -> tuple[sources.Source, sources.Source]:
    source = sources.open_source(config.data, "train")
    val = sources.open_source(config.data, config.eval.split)
    names, val_names = ([c.name for c in s.categories] for s in (source, val))
    if val.annotated and names != val_names:
        raise ValueError(
            f"The classes of split {config.eval.split!r} are not those of the training split: {val_names} and {names}."
        )
    for split, opened in (("train", source), (config.eval.split, val)):
        skipped = f"; skipped: {opened.problems.summary()}" if opened.problems.total() else ""
        console.print(
            f"Data: {split}, {len(opened)} images, {len(opened.categories)} classes{skipped}."
        )
    return source, val


def with_classes(config: ConfigDict, source: sources.Source) -> ConfigDict:
    count, wanted = len(source.categories), config.model.num_classes
    if wanted not in (0, count):
        names = ", ".join(c.name for c in source.categories[:10])
        raise ValueError(
            f"config.model.num_classes={wanted}, but the data set has {count} classes ({names}"
            f"{', ...' if count > 10 else ''}). Leave it 0 to take the number from the data set."
        )
    config.model.num_classes = count
    return config


def first_state(
    config: ConfigDict,
    folder: pathlib.Path,
    model: nn.Module,
    mesh: Mesh,
    saved: checkpoints.Checkpoints,
    source: sources.Source,
    console: Console,
) -> tuple[TrainState, optax.GradientTransformation, Callable[[Any], Any]]:
    """The first state: this run's newest checkpoint, else the weights of `init_from`, else random ones."""
    batch = states.example_batch(config, mesh.size)
    init = lambda: states.init_variables(model, batch, config.seed)  # noqa: E731
    params, batch_stats = jax.eval_shape(init)
    transform, schedule = optimizer.make(config, params)
    create = lambda p, s: states.create(p, s, transform, ema=config.optim.ema > 0)  # noqa: E731
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(mesh)),
        jax.eval_shape(create, params, batch_stats),
    )
    count = sum(x.size for x in jax.tree.leaves(params))
    console.print(
        f"Model: {config.method}, {count:,} parameters, on {mesh.size} {jax.default_backend()} device(s)."
    )
    state = saved.restore(like)
    if state is not None:
        _tell_changes(folder, config, console)
        console.print(f"Resumed from step {int(state.step)} in {folder}.")
        return state, transform, schedule
    place = jax.jit(create, out_shardings=sharding.replicated(mesh))
    values = jax.jit(init, out_shardings=sharding.replicated(mesh))()
    if config.init_from:
        params, batch_stats, kept = checkpoints.init_from(
            config.init_from, *values, source.categories, methods.class_layers(config)
        )
        values = jax.device_put((params, batch_stats), sharding.replicated(mesh))
        told = f"; new, because the classes differ: {', '.join(kept)}" if kept else ""
        console.print(f"Started from the weights of {config.init_from}{told}.")
    else:
        console.print("Started from random weights.")
        if config.model.backbone.norm == "frozen_bn" or config.freeze:
            console.print(
                "Warning: frozen norms and layers (model.backbone.norm='frozen_bn', freeze) are meant for pretrained "
                "weights; with random ones the model will hardly learn. Give --config.init_from, or see "
                "from_scratch in configs/common.py."
            )
    return place(*values), transform, schedule


def _tell_changes(folder: pathlib.Path, config: ConfigDict, console: Console) -> None:
    try:
        before, _ = workdir.load_run(folder)
    except (FileNotFoundError, ValueError):
        return
    for change in workdir.changes(before, config):
        console.print(f"Changed since the last start: {change}.")
