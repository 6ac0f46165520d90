"""Imported weights as the work directory of a run without a step: train, eval and predict take it as any other."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence

from jaxseg.data.source import Category
from jaxseg.training import checkpoints, claims, optimizer, storage, workdir
from jaxseg.training import state as states
from jaxseg.weights import files
from jaxseg.weights.convert import Arrays, Imported

REPORT_FILE = "imported.json"
REST_FILE = "imported_rest.safetensors"


def check_new(folder: str | pathlib.Path) -> pathlib.Path:
    """The folder, which is made if need be.

    Raises:
      ValueError: there is a run in it.
      OSError: it cannot be written.
    """
    folder = workdir.prepare(folder)
    half = claims.where(folder).exists() or (folder / REPORT_FILE).exists()
    if half and not (folder / workdir.RUN_FILE).exists():
        raise ValueError(
            f"An import into {folder} was interrupted. Delete it, or choose another --workdir."
        )
    if (folder / workdir.RUN_FILE).exists() or claims.where(folder).exists():
        raise ValueError(f"There is a run in {folder} already. Choose another --workdir.")
    return folder


def write(
    folder: pathlib.Path, imported: Imported, categories: Sequence[Category], source: str
) -> None:
    """Writes `run.json`, checkpoint 0, and what is known of the file, `source`.

    Raises:
      ValueError: not one category for each class, or `config.checkpoints` cannot be taken.
      OSError: it cannot be written.
    """
    config = imported.config
    if len(categories) != config.model.num_classes:
        raise ValueError(
            f"There are {len(categories)} categories for model.num_classes={config.model.num_classes} classes."
        )
    transform, _ = optimizer.make(config, imported.params)
    ema = config.optim.ema > 0
    state = states.create(imported.params, imported.batch_stats, transform, ema=ema)
    place = claims.choose(folder, storage.checked(config.get("checkpoints", "")))
    config.checkpoints = claims.noted(folder, place)
    with contextlib.ExitStack() as stack:
        stack.enter_context(workdir.locked(folder))
        claims.claim(folder, place)
        saved = stack.enter_context(checkpoints.Checkpoints(folder))
        saved.save(state)
        saved.wait()
        if imported.rest:
            files.save_safetensors(folder / REST_FILE, imported.rest)
        report = dataclasses.asdict(imported.report)
        workdir.write_json(folder / REPORT_FILE, {"source": source, **report})
        workdir.save_run(folder, config, categories)


def rest(folder: str | pathlib.Path) -> Arrays | None:
    """What the file of an imported run had beside our parameters, for `to_torchvision`; None if there is nothing."""
    path = pathlib.Path(folder).expanduser() / REST_FILE
    return files.load_file(path) if path.exists() else None
