"""A training run from a config and a work directory to a checkpoint with its AP.

`train` reads downwards; `_Run` holds what its steps share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from jaxseg import methods
from jaxseg.data import pipeline, sources
from jaxseg.evaluation import coco
from jaxseg.evaluation import report as reports
from jaxseg.training import (
    checkpoints,
    interruption,
    metrics,
    optimizer,
    sharding,
    validation,
    workdir,
)
from jaxseg.training import state as states
from jaxseg.training import step as steps_lib
from jaxseg.training.state import TrainState

_IN_FLIGHT = 2  # steps that are started before the one before the last is waited for
GPU_DETERMINISM = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a run. `finished` is False if a signal stopped it (after saving)."""

    workdir: pathlib.Path
    step: int
    finished: bool
    report: reports.Report | None = None


def train(
    config: ConfigDict,
    folder: str | pathlib.Path,
    *,
    base: ConfigDict | None = None,
    build: Callable[[ConfigDict], nn.Module] = methods.build,
    console: Console | None = None,
) -> Result:
    """Trains as `config` says, from where the work directory stands.

    A run that was killed goes on from its newest finished checkpoint; on CPU and TPU it ends with the same bits. At
    SIGTERM or Ctrl-C it saves and returns.

    Args:
      config: every key of `configs/common.py`; it is not changed.
      folder: the work directory; made if need be.
      base: all keys there are; a key of `config` that it lacks raises.
      build: makes the model, as `jaxseg.methods.build` does.
      console: where to report to.

    Returns:
      A Result with the report of the last validation.

    Raises:
      ValueError: the config, the data set or the checkpoint does not fit; before anything is compiled.
      FileNotFoundError: the data set is not there.
      OSError: the work directory cannot be written; finished checkpoints stay usable.
      FloatingPointError: the loss is not finite.
    """
    console = console or metrics.make_console()
    console.quiet = console.quiet or jax.process_index() > 0
    config = _checked(config, base)
    folder = workdir.prepare(folder)
    ended = validation.read_final(folder)
    if ended is not None and ended[0] >= config.train.steps:
        console.print(
            f"The run in {folder} is finished (step {ended[0]}); nothing is trained. Its results:"
        )
        ended[1].print(console)
        return Result(folder, ended[0], True, ended[1])

    source, val = _open_data(config, console)
    config = _with_classes(config, source)
    mesh = sharding.make_mesh()
    accumulate = config.optim.accumulate
    sharding.check_batch(config.train.batch_size, accumulate, mesh, key="train.batch_size")
    model = build(config)
    evaluate = validation.make_evaluate(model, config, val)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        saved = stack.enter_context(checkpoints.Checkpoints(folder, console.print))
        state, transform, schedule = _start(config, folder, model, mesh, saved, source, console)
        if jax.process_index() == 0:
            workdir.save_run(folder, config, source.categories)
        console.print(f"Optimizer: SGD, {optimizer.describe(config)}.")
        run = _Run(
            config=config,
            folder=folder,
            console=console,
            source=source,
            val=val,
            mesh=mesh,
            schedule=schedule,
            step_fn=steps_lib.make_train_step(
                model,
                transform,
                schedule,
                mesh,
                seed=config.seed,
                freeze=tuple(config.freeze),
                accumulate=accumulate,
                ema=config.optim.ema,
            ),
            evaluate=evaluate,
            saved=saved,
            writer=stack.enter_context(metrics.MetricWriter(folder, int(state.step))),
            stop=stack.enter_context(interruption.Interruption()),
        )
        return run.execute(state)


@dataclasses.dataclass
class _Run:
    """The parts of a run, and the loop over them."""

    config: ConfigDict
    folder: pathlib.Path
    console: Console
    source: sources.Source
    val: sources.Source
    mesh: Mesh
    schedule: Callable[[Any], Any]
    step_fn: Callable[..., Any]
    evaluate: Callable[..., reports.Report | None]
    saved: checkpoints.Checkpoints
    writer: metrics.MetricWriter
    stop: interruption.Interruption
    # (step, image ids, metrics on the device) of the steps since the last look at their `finite`.
    pending: list[tuple[int, Any, dict]] = dataclasses.field(default_factory=list)
    report: reports.Report | None = None  # of the step that was validated last
    last: dict = dataclasses.field(
        default_factory=dict
    )  # metrics of the newest step, on the device

    def execute(self, state: TrainState) -> Result:
        """Trains from `state` to the end, or to a signal."""
        step, steps = int(state.step), self.config.train.steps
        try:
            if step and self._validation_due(step) and not self._validated(step):
                # A signal fell into the validation of this step: it was saved without.
                self.saved.replace(state, self._validate(state, step))
            if step < steps:
                state = self._train(state, step)
            if int(state.step) == steps and self.report is None:
                with (
                    self.stop.at_once()
                ):  # killed after the last save, before its results were written
                    self.report = self.evaluate(states.variables_for_eval(state), self._bar)
        except interruption.Interrupted:
            pass  # `_validate` has saved
        step = int(state.step)
        self.saved.wait()
        if step < steps or (self.stop.signal is not None and self.report is None):
            name = self.stop.signal.name if self.stop.signal else "the scheduler"
            self.console.print(
                f"Stopped by {name}: step {step} is saved. The same command continues from there."
            )
            return Result(self.folder, step, False)
        if self.report is not None:
            self._finish(step)
        return Result(self.folder, step, True, self.report)

    def _train(self, state: TrainState, first: int) -> TrainState:
        train, steps = self.config.train, self.config.train.steps
        clock = metrics.Clock(first, steps, train.batch_size, train.eval_every)
        shapes: set[tuple[int, ...]] = set()
        with contextlib.ExitStack() as stack:
            batches = self._batches(stack, first)
            for step in range(first + 1, steps + 1):
                begin = time.perf_counter()
                try:
                    host, batch = next(batches)
                except Exception:
                    if self.stop.signal is None:
                        raise
                    break  # Ctrl-C reaches the workers too
                clock.waited(time.perf_counter() - begin)
                state = self._step(state, batch, shapes, clock)
                self.pending.append((step, host.image_ids, self.last))
                if len(self.pending) > _IN_FLIGHT:
                    jax.block_until_ready(self.pending[-1 - _IN_FLIGHT][2]["finite"])
                self._after(state, step, clock)
                if self._stopping(step):
                    break
        step = int(state.step)
        if step < steps:
            self._save(state, step, {})
        return state

    def _batches(self, stack: contextlib.ExitStack, first: int):
        host_batches = pipeline.train_batches(
            self.config,
            self.source,
            first_step=first,
            last_step=self.config.train.steps,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        stack.callback(host_batches.close)
        return iter(sharding.prefetch(host_batches, self.mesh))

    def _step(self, state: TrainState, batch, shapes: set, clock: metrics.Clock) -> TrainState:
        shape = tuple(batch.images.shape)
        begin, new = time.perf_counter(), shape not in shapes
        if new:
            shapes.add(shape)
            self.console.print(
                f"Compiling the step for {shape[0]} images of {shape[1]}x{shape[2]} ..."
            )
        with jax.transfer_guard("disallow"):
            state, self.last = self.step_fn(state, batch)
        if new:
            seconds = time.perf_counter() - begin
            clock.compiled(seconds)
            self.console.print(f"Compiled in {seconds:.0f} s.")
        return state

    def _after(self, state: TrainState, step: int, clock: metrics.Clock) -> None:
        """Logs, validates and saves where it is due."""
        train, last = self.config.train, step == self.config.train.steps
        if step % train.log_every == 0 or last:
            self._log(step, clock)
        if self._validation_due(step):
            begin = time.perf_counter()
            self._save(state, step, self._validate(state, step))
            clock.evaluated(time.perf_counter() - begin)
        elif step % train.save_every == 0:
            self._save(state, step, {})

    def _stopping(self, step: int) -> bool:
        if jax.process_count() > 1:
            return self.saved.reached_preemption(step)
        return self.stop.signal is not None

    @property
    def _bar(self) -> bool:
        return self.console.is_terminal and not self.console.quiet

    def _log(self, step: int, clock: metrics.Clock) -> None:
        scalars = {k: float(v) for k, v in jax.device_get(self.last).items() if k != "finite"}
        self._check_finite()
        self.saved.check()
        speed = clock.read(step)
        self.console.print(metrics.console_line(step, self.config.train.steps, scalars, speed))
        if jax.process_index() == 0:
            self.writer.write(step, "train", scalars | speed)

    def _validation_due(self, step: int) -> bool:
        every = self.config.train.eval_every
        return step == self.config.train.steps or bool(every and step % every == 0)

    def _validated(self, step: int) -> bool:
        return any(line["step"] == step for line in metrics.read(self.folder, "val"))

    def _validate(self, state: TrainState, step: int) -> dict[str, float]:
        """Evaluates and logs. A signal meanwhile drops that, saves the state and raises `Interrupted`."""
        self._check_finite()
        if not self.val.annotated and step < self.config.train.steps:
            return {}
        try:
            with self.stop.at_once():
                self.report = self.evaluate(states.variables_for_eval(state), self._bar)
        except interruption.Interrupted:
            self._save(state, step, {})
            raise
        scalars = validation.scalars(self.report)
        if self.report is not None:
            self.console.print(f"step {step}  {self.report.headline}")
            self.writer.write(step, "val", scalars)
        return scalars

    def _save(self, state: TrainState, step: int, scalars: dict[str, float]) -> None:
        self._check_finite()
        if step not in self.saved.steps:
            self.saved.save(state, scalars)

    def _finish(self, step: int) -> None:
        self.report.print(self.console)
        if jax.process_index() == 0:
            files = validation.write_final(self.folder, step, self.report, self.val)
            where = ", ".join(p.name for p in files.values())
            self.console.print(f"In {self.folder}: {where}, checkpoints/, {metrics.EVENTS}/.")

    def _check_finite(self) -> None:
        """Raises FloatingPointError naming the first step whose loss or gradient was not finite."""
        flags = jax.device_get([m["finite"] for _, _, m in self.pending])
        bad = next((entry for entry, ok in zip(self.pending, flags, strict=True) if not ok), None)
        self.pending.clear()
        if bad is None:
            return
        step, ids, values = bad
        values = {k: float(v) for k, v in jax.device_get(values).items() if k != "finite"}
        losses = ", ".join(f"{k} {v:.4g}" for k, v in values.items() if k not in ("lr",))
        newest = self.saved.steps[-1:] or ["none yet"]
        optim = self.config.optim
        raise FloatingPointError(
            f"The loss or its gradient is not finite at step {step} ({losses}).\n"
            f"Image ids of its batch: {', '.join(map(str, ids.tolist()))}. Learning rate: {values['lr']:.4g}.\n"
            f"The step changed no parameter; the newest checkpoint is {newest[0]}. The same command will come to the "
            "same step again, so change something first:\n"
            f"  --config.optim.lr={optim.lr / 4:g}   a lower learning rate (now {optim.lr:g})\n"
            f"  --config.optim.warmup_steps={max(1000, 2 * optim.warmup_steps)}   a longer warm-up (now "
            f"{optim.warmup_steps})\n"
            f"  --config.optim.clip_norm=10   clipped gradients (now {optim.clip_norm or 'no clipping'})\n"
            "  --config.model.dtype=float32   if it is bfloat16\n"
            "and look at these images: python -m jaxseg.data.browse --config=..."
        )


def _checked(config: ConfigDict, base: ConfigDict | None) -> ConfigDict:
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


def _open_data(config: ConfigDict, console: Console) -> tuple[sources.Source, sources.Source]:
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


def _with_classes(config: ConfigDict, source: sources.Source) -> ConfigDict:
    count, wanted = len(source.categories), config.model.num_classes
    if wanted not in (0, count):
        names = ", ".join(c.name for c in source.categories[:10])
        raise ValueError(
            f"config.model.num_classes={wanted}, but the data set has {count} classes ({names}"
            f"{', ...' if count > 10 else ''}). Leave it 0 to take the number from the data set."
        )
    config.model.num_classes = count
    return config


def _start(
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
    return place(*values), transform, schedule


def _tell_changes(folder: pathlib.Path, config: ConfigDict, console: Console) -> None:
    try:
        before, _ = workdir.load_run(folder)
    except (FileNotFoundError, ValueError):
        return
    for change in workdir.changes(before, config):
        console.print(f"Changed since the last start: {change}.")
