"""What happens before the first step: the config's checks, the data, the classes, the first state."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from jaxseg.data import geometry, pipeline, sources, views
from jaxseg.evaluation import measure, pasters
from jaxseg.methods import maskplus
from jaxseg.training import (
    checkpoints,
    claims,
    class_rows,
    init_from,
    integrity,
    optimizer,
    sharding,
    starting,
    storage,
    workdir,
)
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
    config.mesh = {"fsdp": sharding.checked(config.get("mesh", {}).get("fsdp", 1))}
    config.checkpoints = storage.checked(config.get("checkpoints", ""))
    geometry.check(config.data)
    class_rows.parse(config.get("init_classes", ""))
    views.check(config)
    optimizer.make_schedule(config)
    measure.settings(config.eval)
    pasters.check(config.eval.get("workers", pasters.AUTOMATIC))
    if config.deterministic and jax.default_backend() == "gpu":
        missing = [f for f in GPU_DETERMINISM.split() if f not in os.environ.get("XLA_FLAGS", "")]
        if missing:
            raise ValueError(
                f"config.deterministic on GPU needs XLA_FLAGS='{GPU_DETERMINISM}' in the environment before jax starts "
                "(train.py sets it)."
            )
    return config


def compare_with_finished(
    folder: pathlib.Path, config: ConfigDict, console: Console, base: ConfigDict | None = None
) -> None:
    """Tells what a config that meets a finished run has changed; `base` as in `workdir.differences`.

    Raises:
      ValueError: it describes another model.
    """
    found = _differences(folder, config, base)
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
    like: TrainState  # of jax.ShapeDtypeStruct, with shardings
    transform: optax.GradientTransformation
    schedule: optimizer.Schedule
    read_start: Callable[[], starting.Start | None]  # what `config.init_from` gives; checked
    start: starting.Start | None = None  # the same, read already if the run has no checkpoint
    changed: Mapping[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)  # since then


def plan_state(
    config: ConfigDict,
    folder: pathlib.Path,
    model: nn.Module,
    mesh: Mesh,
    categories: Sequence[sources.Category],
    base: ConfigDict | None = None,
) -> Plan:
    """Plans the first state of a model for the data set's `categories`; `base` as in `workdir.differences`.

    Raises:
      ValueError: `config.freeze` does not fit the model, or what is in `config.init_from` or `folder` does not; or the
        run in `folder` would go on with other settings of the model than it began with.
      OSError: there is no run and no file in `config.init_from`, and it is needed.
    """
    init = functools.partial(_initial_variables, config, model)
    params, batch_stats = jax.eval_shape(init)
    transform, schedule = optimizer.make(config, params)
    create = lambda p, s: states.create(p, s, transform, ema=config.optim.ema > 0)  # noqa: E731
    like = jax.eval_shape(create, params, batch_stats)
    like = jax.tree.map(
        lambda x, lies: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lies),
        like,
        sharding.of_state(like, mesh),
    )
    variables = integrity.flat({"params": params, "batch_stats": batch_stats})
    shapes = {path: leaf.shape for path, leaf in variables.items()}
    read_start = functools.partial(init_from.start, config, shapes, categories)
    plan = Plan(init, create, like, transform, schedule, read_start)
    steps = storage.finished_steps(claims.choose(folder, config.get("checkpoints", "")))
    if not steps:
        return dataclasses.replace(plan, start=read_start())
    changed = _differences(folder, config, base)
    _check_same_model(folder, changed, functools.partial(_is_start, config, shapes, categories))
    _check_mask_weight(folder, config, changed, steps[-1])
    return dataclasses.replace(plan, changed=changed)


def _initial_variables(config: ConfigDict, model: nn.Module) -> tuple[Any, Any]:
    """Of a batch as large as what is computed at once, which devices and rankings divide."""
    images = config.train.batch_size // config.optim.accumulate
    return states.init_variables(model, states.example_batch(config, images), config.seed)


def _check_mask_weight(
    folder: pathlib.Path, config: ConfigDict, changed: Mapping[str, tuple[Any, Any]], step: int
) -> None:
    """Raises ValueError where more steps would bring back the first part of biased training, which has passed."""
    if "train.steps" not in changed:
        return
    (before, after), model = changed["train.steps"], config.model
    until = maskplus.biased_steps(model, after)
    if maskplus.biased_steps(model, before) <= step < until:
        raise ValueError(
            f"The run in {folder} is at step {step}, where its masks no longer have the weight config.model.maskplus."
            f"alpha={model.maskplus.alpha:g}; with train.steps={after} they would have it again, up to step {until}. "
            f"Train as many steps as before ({before}), or start another run with --config.init_from={folder} and "
            "--config.model.maskplus.alpha=1."
        )


def _check_same_model(
    folder: pathlib.Path,
    changed: Mapping[str, tuple[Any, Any]],
    is_start: Callable[[pathlib.Path], bool],
) -> None:
    """Raises ValueError where a run would go on with another method or another model than it began with."""
    before, after = changed.get("method", ("absent", ""))
    model = {
        key: values
        for key, values in changed.items()
        # What is evaluated, and how it is computed, may be another at every start.
        if key.startswith("model.") and not key.startswith("model.test.")
        if key not in ("model.roi_align", "model.dtype") and "absent" not in values
    }
    if before != "absent":
        found = f"has method={before!r}, and this config has method={after!r}. Go on with a config of that method"
    elif model:
        found = (
            f"was trained with other settings of the model: {workdir.told(model)}. It cannot go on with these: put "
            "them back"
        )
    else:
        return
    advice = f"; a new run can start from its weights with --config.init_from={folder}"
    raise ValueError(
        f"The run in {folder} {found}, or choose another --workdir{advice if is_start(folder) else ''}."
    )


def _is_start(
    config: ConfigDict,
    shapes: Mapping[str, tuple[int, ...]],
    categories: Sequence[Any],
    folder: pathlib.Path,
) -> bool:
    """Whether a new run of this config could start from the one in `folder`."""
    config = ConfigDict({**config.to_dict(), "init_from": str(folder)})
    try:
        return init_from.start(config, shapes, categories) is not None
    except (ValueError, OSError):
        return False


def first_state(
    config: ConfigDict,
    folder: pathlib.Path,
    plan: Plan,
    mesh: Mesh,
    saved: checkpoints.Checkpoints,
    console: Console,
) -> TrainState:
    """The first state: this run's newest checkpoint, else the weights of `init_from`, else random ones."""
    count = sum(x.size for x in jax.tree.leaves(plan.like.params))
    console.print(
        f"Model: {config.method}, {count:,} parameters, on {mesh.size} {jax.default_backend()} device(s)"
        f"{sharding.told(mesh)}."
    )
    # The settings of the model are the same: it is checked.
    changed = {k: v for k, v in plan.changed.items() if k in ("freeze", "optim.ema")}
    state = saved.restore(plan.like, workdir.told(changed))
    if state is not None:
        for key, (before, after) in plan.changed.items():
            console.print(f"Changed since the last start: {key}: {before!r} -> {after!r}.")
        console.print(f"Resumed from step {int(state.step)} in {folder}.")
        return state
    place = jax.jit(plan.create, out_shardings=sharding.lying(plan.like))
    lying = sharding.lying((plan.like.params, plan.like.batch_stats))
    values = jax.jit(plan.init, out_shardings=lying)()
    # Without one that was read before, there were checkpoints, all of them damaged.
    start = plan.start or plan.read_start()
    if start is not None:
        fresh = integrity.flat({"params": values[0], "batch_stats": values[1]})
        fresh = {path: x for path, x in fresh.items() if path in start.needed}
        fresh = jax.device_get(sharding.whole(fresh, mesh))
        values = jax.device_put(start.complete(fresh), lying)
        console.print(f"Started from the weights of {config.init_from}.")
        for line in start.told:
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


def _differences(
    folder: pathlib.Path, config: ConfigDict, base: ConfigDict | None
) -> dict[str, tuple[Any, Any]]:
    """What differs from the config of the last start in `folder`."""
    try:
        before, _ = workdir.load_run(folder)
    except (FileNotFoundError, ValueError):
        return {}
    found = workdir.differences(before, config, base)
    if not config.model.num_classes:
        found.pop("model.num_classes", None)  # it is taken from the data set
    if not config.get("checkpoints", ""):
        found.pop("checkpoints", None)  # they stay where they are
    return found
