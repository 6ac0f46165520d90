"""Evaluation of a run in progress, and what it leaves in the work directory at its end."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from jaxseg.evaluation import exchange, inference, measure, pictures
from jaxseg.evaluation import report as reports
from jaxseg.training import sharding, step, workdir

_T = TypeVar("_T")
FINISHED = "finished.json"
PICTURE = "predictions.png"


def make_evaluate(
    model: nn.Module, config: ConfigDict, source: Any
) -> Callable[..., reports.Report | None]:
    """Builds `evaluate(variables, progress=False) -> Report`.

    Every process calls it, and detects in its share of the images on its own devices; all but the first get None.

    Raises:
      ValueError: `config.eval.batch_size` does not split over the devices, or the source lacks what the protocol of the
        evaluation needs.
    """
    measure.for_source(config.eval, source)
    mesh = sharding.make_mesh(jax.local_devices())
    sharding.check_batch(config.eval.batch_size, 1, mesh, key="eval.batch_size")
    detect = step.make_detect(model, mesh)
    group = exchange.of_this_run()

    def evaluate(variables: Any, progress: bool = False) -> reports.Report | None:
        context = contextlib.nullcontext()
        if group.count > 1:
            variables = jax.device_put(on_this_host(variables), sharding.replicated(mesh))
            context = jax.set_mesh(mesh)
        with group.together(), context:
            return inference.evaluate_source(
                lambda batch: detect(variables, batch),
                source,
                config,
                split=config.eval.split,
                progress=progress,
                group=group,
            )

    return evaluate


def on_this_host(variables: Any) -> Any:
    """Arrays that are spread over processes as NumPy arrays, whole; every process calls it and sends its parts."""

    def whole(x: jax.Array) -> np.ndarray:
        if x.is_fully_replicated:
            return np.asarray(x.addressable_data(0))
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(whole, variables)


def scalars(report: reports.Report | None) -> dict[str, float]:
    """`box/AP`, `mask/AP50`, ...: what a report measures, the same on every process; {} without annotations."""
    found = {}
    if report is not None:
        for kind, numbers in report.metrics.items():
            # -1 is "not defined": nothing to log
            found |= {f"{kind}/{n}": float(v) for n, v in numbers.summary.items() if v >= 0}
    return of_first(found)


def of_first(value: _T) -> _T:
    """What the first process has, on every process, all of which call it; something that goes into JSON."""
    if jax.process_count() == 1:
        return value
    return json.loads(_broadcast(json.dumps(value)))


def _broadcast(text: str, size: int = 65536) -> str:
    data = np.frombuffer(text.encode().ljust(size), np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(data))).decode().strip()


def write_final(
    folder: pathlib.Path, done: int, report: reports.Report, source: Any
) -> dict[str, pathlib.Path]:
    """Writes the results, the tables and the picture of a finished run; `finished.json` last, as the sign of it."""
    try:
        files = report.save(folder)
        picture = pictures.compare(source, report.results, folder / PICTURE)
    except OSError as error:
        raise type(error)(
            f"Could not write the results to {folder}: {error.strerror or error}. The checkpoints are complete: free "
            "some space, then start again with the same command."
        ) from error
    if picture:
        files["picture"] = picture
    workdir.write_json(folder / FINISHED, {"step": done, **report.to_dict()})
    return files


def read_final(folder: pathlib.Path) -> tuple[int, reports.Report] | None:
    """(step, Report) of a run that has ended; None if it has not."""
    try:
        final = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        return final["step"], reports.Report.from_dict(final, results)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, or from another version: it is made anew
