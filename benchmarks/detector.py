"""jaxseg's training step and detection of a config, compiled for random images."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from ml_collections import ConfigDict

from benchmarks import macs
from benchmarks import scene as scenes
from benchmarks.contest import Contestant
from jaxseg import methods
from jaxseg.ops import sampling
from jaxseg.training import freeze, optimizer, sharding, state
from jaxseg.training import step as step_lib

CLASSES = 80


def prepared(
    config: ConfigDict, *, size: tuple[int, int], batch: int, dtype: str, **changes: Any
) -> ConfigDict:
    """A copy for images of `size`, `batch` of them a step; `changes` are further keys with "__" for the dots."""
    config = ConfigDict(config).copy_and_resolve_references()
    config.model.num_classes = config.model.num_classes or CLASSES
    config.model.dtype = dtype
    config.model.test.score = 0.0  # random weights score low, and every slot is to be filled
    config.data.buckets = (tuple(size),)
    config.train.batch_size = config.eval.batch_size = batch
    config.optim.lr, config.optim.base_batch_size = 1e-3, batch  # small: weights are random
    config.lock()  # a key that is not there is an error
    for key, value in changes.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return config


def inputs(config: ConfigDict, scene: scenes.Scene) -> Any:
    """The scene as the config's batch, on the device."""
    data = config.data
    batch = scenes.batch_of(
        scene,
        instances=data.max_instances,
        crowds=data.max_crowds,
        mask_size=data.mask_crop_size,
    )
    return jax.device_put(batch)


def training(config: ConfigDict, scene: scenes.Scene) -> Contestant:
    """Steps of SGD on one batch, the state given away from step to step as in `train.py`."""
    model, mesh = methods.build(config), sharding.make_mesh(jax.local_devices()[:1])
    batch = inputs(config, scene)
    with jax.set_mesh(mesh):
        init = jax.jit(
            lambda: state.init_variables(model, state.example_batch(config), config.seed)
        )
        params, stats = init()
        stats = damped(stats)
        transform, schedule = optimizer.make(config, params)
        step = step_lib.make_train_step(
            model, transform, schedule, mesh, seed=config.seed, freeze=tuple(config.freeze)
        )
        begin = state.create(params, stats, transform, ema=config.optim.ema > 0)
        begin = jax.device_put(begin, sharding.replicated(mesh))
        start = time.perf_counter()
        program = step.func.lower(begin, batch, **step.keywords).compile()
        facts = {"compile_seconds": time.perf_counter() - start} | memory(program)
    carried = {"state": begin, "log": None}

    def run():
        carried["state"], carried["log"] = program(carried["state"], batch, **step.keywords)
        return carried["log"]

    loss = lambda: float(carried["log"]["loss"])  # noqa: E731
    return Contestant(run, jax.block_until_ready, loss, facts, program)


def detection(config: ConfigDict, scene: scenes.Scene) -> Contestant:
    """`model.detect` on one batch, probabilities of the masks included; nothing is pasted."""
    model = methods.build(config)
    batch = inputs(config, scene).replace(targets=None)
    variables = jax.jit(lambda key: model.init(key, batch, method="detect"))(
        jax.random.key(config.seed, impl="rbg")
    )
    variables = dict(variables)
    variables["batch_stats"] = damped(variables.get("batch_stats", {}))
    start = time.perf_counter()
    lowered = jax.jit(lambda v, b: model.apply(v, b, method="detect")).lower(variables, batch)
    program = lowered.compile()
    facts = {"compile_seconds": time.perf_counter() - start} | memory(program)
    last = {}

    def run():
        last["found"] = program(variables, batch)
        return last["found"]

    def check():
        filled_slots(last["found"].valid.sum(-1), config.model.test.max_detections)
        return float(last["found"].scores.sum())

    return Contestant(run, jax.block_until_ready, check, facts, program)


def filled_slots(counts: Iterable[int], slots: int) -> None:
    """Raises ValueError if an image has fewer detections than slots: less work than was agreed on."""
    if min(map(int, counts)) < slots:
        raise ValueError(f"found {[*map(int, counts)]} objects instead of {slots} an image")


def mask_slots(config: ConfigDict) -> int:
    """RoIs an image whose masks are predicted in a training step of Mask R-CNN, filled or not."""
    roi = config.model.criterion.roi
    return sampling.max_positives(roi.samples, roi.positive_fraction)


def training_macs(config: ConfigDict) -> int:
    """Multiply-adds of a step, gradients included, as `macs` counts them; nothing is computed."""
    return _total(training_jaxpr(config))


def training_jaxpr(config: ConfigDict) -> Any:
    """Of the loss and its gradient; nothing is computed."""
    model = methods.build(config)
    batch, params, stats = shapes(config, model, config.train.batch_size)

    def loss(params, stats, batch, key, step):
        params = freeze.stop_gradient(params, tuple(config.freeze))
        variables = {"params": params, "batch_stats": stats}
        out, _ = model.apply(variables, batch, key, step, method="losses", mutable=["batch_stats"])
        return out[0]

    key, step = jax.eval_shape(lambda: (jax.random.key(0), jnp.zeros((), jnp.int32)))
    return jax.make_jaxpr(jax.grad(loss))(params, stats, batch, key, step)


def shapes(config: ConfigDict, model: Any, images: int) -> tuple[Any, Any, Any]:
    """Of a batch, the parameters and the statistics."""
    batch = jax.eval_shape(lambda: state.example_batch(config, images))
    return batch, *jax.eval_shape(lambda b: state.init_variables(model, b, config.seed), batch)


def detection_macs(config: ConfigDict) -> int:
    """Of `detect`."""
    model = methods.build(config)
    batch = jax.eval_shape(lambda: state.example_batch(config, config.eval.batch_size))
    batch = batch.replace(targets=None)
    init = lambda b: model.init(jax.random.key(0, impl="rbg"), b, method="detect")  # noqa: E731
    variables = jax.eval_shape(init, batch)
    return _total(jax.make_jaxpr(lambda v, b: model.apply(v, b, method="detect"))(variables, batch))


def _total(jaxpr: Any) -> int:
    return macs.total(list(macs.operations(jaxpr.jaxpr)))


def damped(batch_stats: Any, factor: float = 0.2) -> Any:
    """Frozen norms at the end of each residual branch scaled down: random weights would let features grow 2^16-fold."""
    leaves = traverse_util.flatten_dict(batch_stats)
    norms = [path for path in leaves if path[-1] == "scale" and path[-2].startswith("norm")]
    last = {path[:-2]: path for path in sorted(norms)}  # of a block: norm3, or norm2
    ends = set(last.values())
    scaled = {p: v * factor if p in ends else v for p, v in leaves.items()}
    return traverse_util.unflatten_dict(scaled)


def memory(program: Any) -> dict[str, int]:
    """What XLA plans: bytes of temporaries, and of all together."""
    plan = program.memory_analysis()
    if plan is None:
        return {}
    kept = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return {
        "temporary_bytes": plan.temp_size_in_bytes,
        "planned_bytes": plan.temp_size_in_bytes + kept,
    }
