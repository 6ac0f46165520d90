"""A training run from a config and a work directory to a checkpoint with its AP.

`train` reads downwards; `_Run` holds what the steps share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from jaxseg import methods
from jaxseg.data import pipeline, sources
from jaxseg.evaluation import exchange
from jaxseg.evaluation import report as reports
from jaxseg.training import (
    checkpoints,
    claims,
    finite,
    interruption,
    metrics,
    optimizer,
    processes,
    readable,
    setup,
    sharding,
    validation,
    workdir,
)
from jaxseg.training import state as states
from jaxseg.training import step as steps_lib
from jaxseg.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a run. If it is not finished, `signal` is the number of what stopped it (after saving)."""

    workdir: pathlib.Path
    step: int
    finished: bool
    report: reports.Report | None = None
    signal: int = 0


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
      ValueError: the config, the data set or the checkpoint does not fit, before anything is compiled; or none of the
        training images can be read.
      BlockingIOError: another run is under way in the work directory.
      FileNotFoundError: the data set is not there.
      OSError: the work directory cannot be written; finished checkpoints stay usable.
      FloatingPointError: the loss is not finite.
    """
    console = console or metrics.make_console()
    console.quiet = console.quiet or jax.process_index() > 0
    config = setup.checked(config, base)
    folder = workdir.prepare(folder)
    processes.check_same_folder(folder)
    if ended := _ended_before(folder, config, base, console):
        return ended
    place = claims.choose(folder, config.checkpoints)
    config.checkpoints = claims.noted(folder, place)
    source, val = setup.open_data(config, console)
    config = setup.with_classes(config, source)
    mesh = sharding.make_mesh(fsdp=config.mesh.fsdp)
    sharding.check_batch(
        config.train.batch_size, config.optim.accumulate, mesh, key="train.batch_size"
    )
    model = build(config)
    evaluate = validation.make_evaluate(model, config, val)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        plan = setup.plan_state(config, folder, model, mesh, source.categories, base)
        if jax.process_index() == 0:
            stack.enter_context(workdir.locked(folder))
            claims.claim(folder, place)
        saved = stack.enter_context(checkpoints.Checkpoints(folder, console.print, place))
        state = setup.first_state(config, folder, plan, mesh, saved, console)
        plan = dataclasses.replace(plan, start=None)  # its arrays need not stay
        writer = None
        if jax.process_index() == 0:
            workdir.save_run(folder, config, source.categories)
            writer = stack.enter_context(metrics.MetricWriter(folder, int(state.step)))
        console.print(f"Optimizer: SGD, {optimizer.describe(config)}.")
        run = _Run(
            config=config,
            folder=folder,
            console=console,
            source=source,
            val=val,
            mesh=mesh,
            step_fn=_train_step(config, model, plan, mesh),
            evaluate=evaluate,
            saved=saved,
            writer=writer,
            stop=stack.enter_context(interruption.Interruption()),
            state=state,
        )
        return run.execute()


def _ended_before(
    folder: pathlib.Path, config: ConfigDict, base: ConfigDict | None, console: Console
) -> Result | None:
    """The result of a run that is finished, after it was printed again; None if there is something to train."""
    step, report = validation.read_final(folder) or (0, None)
    if report is None or step < config.train.steps:
        return None
    setup.compare_with_finished(folder, config, console, base)
    console.print(
        f"The run in {folder} is finished (step {step}); nothing is trained. Its results:"
    )
    report.print(console)
    return Result(folder, step, True, report)


def _train_step(
    config: ConfigDict, model: nn.Module, plan: setup.Plan, mesh: Mesh
) -> Callable[..., Any]:
    return steps_lib.make_train_step(
        model,
        plan.transform,
        plan.schedule,
        mesh,
        seed=config.seed,
        freeze=tuple(config.freeze),
        accumulate=config.optim.accumulate,
        ema=config.optim.ema,
        shardings=sharding.lying(plan.like),
    )


@dataclasses.dataclass
class _Run:
    """The parts of a run, and the loop over them."""

    config: ConfigDict
    folder: pathlib.Path
    console: Console
    source: sources.Source
    val: sources.Source
    mesh: Mesh
    step_fn: Callable[..., Any]
    evaluate: Callable[..., reports.Report | None]
    saved: checkpoints.Checkpoints
    writer: metrics.MetricWriter | None  # the first process writes
    stop: interruption.Interruption
    state: TrainState
    report: reports.Report | None = None  # of the last validation; the first process has it
    evaluated: bool = False  # whether there was one, in all processes
    guard: finite.Guard = dataclasses.field(default_factory=finite.Guard)
    shapes: set[tuple[int, ...]] = dataclasses.field(default_factory=set)  # that were compiled

    def execute(self) -> Result:
        """Trains to the end, or to a signal."""
        step, steps = int(self.state.step), self.config.train.steps
        done = False
        with contextlib.suppress(interruption.Interrupted, exchange.Preempted):
            if step and self._validation_due(step) and not self._validated(step):
                # A signal fell into the validation of this step: it was saved without.
                self.saved.replace(self.state, self._validate(step))
            if step < steps:
                self._train(step)
            if int(self.state.step) >= steps:  # more if train.steps was lowered
                if not self.evaluated:
                    self._evaluate()  # it was killed between its last save and its results
                done = True
        step = int(self.state.step)
        self.saved.wait()
        if not done:
            # Under jax.distributed the signal is caught elsewhere.
            number = self.stop.signal or signal.SIGTERM
            self.console.print(
                f"Stopped by {number.name}: step {step} is saved. The same command continues from there."
            )
            return Result(self.folder, step, False, signal=int(number))
        with exchange.of_this_run().together():  # the others end when the first has written
            if self.report is not None:
                self._finish(step, self.report)
        return Result(self.folder, step, True, self.report)

    def _train(self, first: int) -> None:
        train = self.config.train
        clock = metrics.Clock(first, train.steps, train.batch_size, train.eval_every)
        images = len(pipeline.training_images(self.config.data, self.source))
        unreadable = readable.Guard(images // jax.process_count())
        with self._batches(first) as batches:
            for step in range(first + 1, train.steps + 1):
                begin = time.perf_counter()
                try:
                    host, batch = next(batches)
                except Exception:
                    if self.stop.signal is None:
                        raise
                    break  # Ctrl-C reaches the workers, too
                clock.waited(time.perf_counter() - begin)
                unreadable.add(host)
                self.guard.add(step, host.image_ids, self._step(batch, clock))
                self._after(step, clock)
                if self._stopping(step):
                    break
        step = int(self.state.step)
        if step < train.steps:
            self._save(step, {})

    @contextlib.contextmanager
    def _batches(self, first: int) -> Iterator[Iterator[tuple[Any, Any]]]:
        host_batches = pipeline.train_batches(
            self.config,
            self.source,
            first_step=first,
            last_step=self.config.train.steps,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        with contextlib.closing(host_batches):
            yield sharding.prefetch(host_batches, self.mesh)

    def _step(self, batch: Any, clock: metrics.Clock) -> dict[str, jax.Array]:
        shape = tuple(batch.images.shape)
        new = shape not in self.shapes
        if new:
            self.shapes.add(shape)
            size = f"{shape[0]} images of {shape[1]}x{shape[2]}"
            self.console.print(f"Compiling the step for {size} ...")
        begin = time.perf_counter()
        with jax.transfer_guard("disallow"):
            self.state, scalars = self.step_fn(self.state, batch)
        if new:
            seconds = time.perf_counter() - begin
            clock.compiled(seconds)
            self.console.print(f"Compiled in {seconds:.0f} s.")
        return scalars

    def _after(self, step: int, clock: metrics.Clock) -> None:
        """Logs, validates and saves where it is due."""
        train = self.config.train
        if step % train.log_every == 0 or step == train.steps:
            self._log(step, clock)
        if self._validation_due(step):
            begin = time.perf_counter()
            self._save(step, self._validate(step))
            clock.evaluated(time.perf_counter() - begin)
        elif step % train.save_every == 0:
            self._save(step, {})

    def _stopping(self, step: int) -> bool:
        if jax.process_count() > 1:
            return self.saved.reached_preemption(step)
        return self.stop.signal is not None

    def _log(self, step: int, clock: metrics.Clock) -> None:
        scalars = self._check_finite()
        self.saved.check()
        speed = clock.read(step)
        self.console.print(metrics.console_line(step, self.config.train.steps, scalars, speed))
        if self.writer:
            self.writer.write(step, "train", scalars | speed)

    def _validation_due(self, step: int) -> bool:
        every = self.config.train.eval_every
        return step >= self.config.train.steps or bool(every and step % every == 0)

    def _validated(self, step: int) -> bool:
        there = any(line["step"] == step for line in metrics.read(self.folder, "val"))
        return validation.of_first(there)  # another host may not see the first one's log

    def _validate(self, step: int) -> dict[str, float]:
        """Evaluates and logs. Whatever interrupts it, the state is saved."""
        self._check_finite()
        if not self.val.annotated and step < self.config.train.steps:
            return {}
        try:
            self._evaluate()
        except BaseException:
            self._save(step, {})
            raise
        scalars = validation.scalars(self.report)
        if self.writer and self.report:
            self.console.print(f"step {step}  {self.report.headline}")
            self.writer.write(step, "val", scalars)
        return scalars

    def _evaluate(self) -> None:
        bar = self.console.is_terminal and not self.console.quiet
        variables = sharding.whole(states.variables_for_eval(self.state), self.mesh)
        with self.stop.at_once():
            self.report = self.evaluate(variables, bar)
            self.evaluated = True

    def _save(self, step: int, scalars: dict[str, float]) -> None:
        self._check_finite()
        if step not in self.saved.steps:
            self.saved.save(self.state, scalars)

    def _check_finite(self) -> dict[str, float]:
        return self.guard.check(self.config.optim, self.saved.steps)

    def _finish(self, step: int, report: reports.Report) -> None:
        report.print(self.console)
        files = validation.write_final(self.folder, step, report, self.val)
        names = ", ".join(path.name for path in files.values())
        self.console.print(f"In {self.folder}: {names}, {metrics.EVENTS}/.")
        self.console.print(f"Checkpoints: {self.saved.place}.")
