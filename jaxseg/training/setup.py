"""What happens before the first step: the config's checks, the data, the classes, the first state."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from jaxseg import methods
from jaxseg.data import geometry, pipeline, sources
from jaxseg.evaluation import coco
from jaxseg.training import checkpoints, integrity, optimizer, sharding, workdir
from jaxseg.training import state as states
from jaxseg.training.state import TrainState

GPU_DETERMINISM = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"


def checked(config: ConfigDict, base: ConfigDict | None) -> ConfigDict:
    """A copy of the config, after the checks that need nothing else."""
    if base is not None:
        workdir.check_keys(config, base)
    config = ConfigDict(config.to_dict())
    whole_numbers = {
        "seed": (config, 0),
        **{f"train.{k}": (config.train, 1) for k in ("batch_size", "steps", "log_every")},
        "train.save_every": (config.train, 1),
        "train.eval_every": (config.train, 0),
        "eval.batch_size": (config.eval, 1),
        "eval.max_images": (config.eval, 0),
    }
    for key, (group, least) in whole_numbers.items():
        value = group[key.rpartition(".")[2]]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"config.{key}={value!r}: must be a whole number >= {least}.")
    if config.seed >= 2**32:
        raise ValueError(f"config.seed={config.seed}: must be less than 2**32.")
    geometry.check(config.data)
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


def compare_with_finished(folder: pathlib.Path, config: ConfigDict, console: Console) -> None:
    """Tells what a config that meets a finished run has changed.

    Raises:
      ValueError: it describes another model.
    """
    found = _differences(folder, config)
    for key, (before, after) in found.items():
        # What the run's version of jaxseg did not know yet is no other model.
        if before != "absent" and (key == "method" or key.startswith("model.")):
            raise ValueError(
                f"The run in {folder} is finished, and it has {key}={before!r} where this config has {after!r}. "
                "Choose another --workdir; other settings for the evaluation of this run go to eval.py."
            )
    for key, (before, after) in found.items():
        console.print(f"Changed since, without effect on this run: {key}: {before!r} -> {after!r}.")


def open_data(config: ConfigDict, console: Console) -> tuple[sources.Source, sources.Source]:
    """The training and the validation split.

    Raises:
      ValueError: there is nothing to train on or to evaluate, or the classes of the splits differ.
      FileNotFoundError: a file of the data set does not exist.
    """
    source = sources.open_source(config.data, "train")
    pipeline.training_images(config.data, source)
    split = config.eval.split
    val = sources.open_source(config.data, split)
    if not len(val):
        raise ValueError(
            f"The split {split!r} (config.eval.split), which is to be evaluated, has no images."
        )
    names, val_names = ([c.name for c in s.categories] for s in (source, val))
    if names != val_names:
        raise ValueError(
            f"The classes of split {split!r} are not those of the training split: {val_names} and {names}."
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


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a state is made, and of which shapes; nothing is computed or compiled yet."""

    init: Callable[[], tuple[Any, Any]]  # () -> (params, batch_stats)
    create: Callable[[Any, Any], TrainState]
    like: TrainState  # of jax.ShapeDtypeStruct
    transform: optax.GradientTransformation
    schedule: optimizer.Schedule
    foreign: Any = (
        None  # what `config.init_from` has, if it is a file: a jaxseg.weights.convert.Filled
    )


def plan_state(
    config: ConfigDict,
    folder: pathlib.Path,
    model: nn.Module,
    mesh: Mesh,
    categories: Sequence[sources.Category],
) -> Plan:
    """Plans the first state of a model for the data set's `categories`.

    Raises:
      ValueError: `config.freeze` does not fit the model, or the file `config.init_from` does not.
      OSError: there is no run and no file in `config.init_from`, and it is needed.
    """
    from jaxseg.weights import start  # which is above this layer

    batch = states.example_batch(config, mesh.size)
    init = lambda: states.init_variables(model, batch, config.seed)  # noqa: E731
    params, batch_stats = jax.eval_shape(init)
    transform, schedule = optimizer.make(config, params)
    create = lambda p, s: states.create(p, s, transform, ema=config.optim.ema > 0)  # noqa: E731
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(mesh)),
        jax.eval_shape(create, params, batch_stats),
    )
    foreign = None
    if config.init_from and not integrity.finished_steps(checkpoints.checkpoint_folder(folder)):
        if start.is_file(config.init_from):
            variables = integrity.flat({"params": params, "batch_stats": batch_stats})
            shapes = {path: leaf.shape for path, leaf in variables.items()}
            foreign = start.read(config.init_from, config, shapes, categories)
        else:
            workdir.load_run(config.init_from)
    return Plan(init, create, like, transform, schedule, foreign)


def first_state(
    config: ConfigDict,
    folder: pathlib.Path,
    plan: Plan,
    mesh: Mesh,
    saved: checkpoints.Checkpoints,
    source: sources.Source,
    console: Console,
) -> TrainState:
    """The first state: this run's newest checkpoint, else the weights of `init_from`, else random ones."""
    count = sum(x.size for x in jax.tree.leaves(plan.like.params))
    console.print(
        f"Model: {config.method}, {count:,} parameters, on {mesh.size} {jax.default_backend()} device(s)."
    )
    state = saved.restore(plan.like)
    if state is not None:
        for key, (before, after) in _differences(folder, config).items():
            console.print(f"Changed since the last start: {key}: {before!r} -> {after!r}.")
        console.print(f"Resumed from step {int(state.step)} in {folder}.")
        return state
    place = jax.jit(plan.create, out_shardings=sharding.replicated(mesh))
    values = jax.jit(plan.init, out_shardings=sharding.replicated(mesh))()
    if plan.foreign is not None:
        initial = integrity.flat({"params": values[0], "batch_stats": values[1]})
        found = plan.foreign.complete(initial)
        values = jax.device_put((found.params, found.batch_stats), sharding.replicated(mesh))
        console.print(f"Started from the weights of {config.init_from}:\n{found.report}")
    elif config.init_from:
        params, batch_stats, kept = checkpoints.init_from(
            config.init_from,
            *values,
            source.categories,
            methods.class_layers(config),
            methods.copies(config),
        )
        values = jax.device_put((params, batch_stats), sharding.replicated(mesh))
        told = f"; new, because the classes differ: {', '.join(kept)}" if kept else ""
        console.print(f"Started from the weights of {config.init_from}{told}.")
        for line in _conventions(config):
            console.print(line)
    else:
        console.print("Started from random weights.")
        if config.model.backbone.norm == "frozen_bn" or config.freeze:
            console.print(
                "Warning: frozen norms and layers (model.backbone.norm='frozen_bn', freeze) are meant for pretrained "
                "weights; with random ones the model will hardly learn. Give --config.init_from, or see "
                "from_scratch in configs/common.py."
            )
    return place(*values)


def _conventions(config: ConfigDict) -> list[str]:
    """Warnings about settings with which the run in `config.init_from` gave its weights another meaning."""
    before, _ = workdir.load_run(config.init_from)
    parts = ("model.backbone.", "model.pixel_", "model.roi_sampling.", "model.rpn.", "model.fpn.")
    return [
        f"Warning: the weights were made with {key}={old!r}, and this config has {new!r}."
        for key, (old, new) in workdir.differences(before, config).items()
        if key.startswith(parts)
    ]


def _differences(folder: pathlib.Path, config: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """What differs from the config of the last start in `folder`."""
    try:
        before, _ = workdir.load_run(folder)
    except (FileNotFoundError, ValueError):
        return {}
    found = workdir.differences(before, config)
    if not config.model.num_classes:
        found.pop("model.num_classes", None)  # it is taken from the data set
    return found
