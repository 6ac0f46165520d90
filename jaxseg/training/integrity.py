"""Whether a checkpoint is what was saved, fits the model, and what to do with one that is neither."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from jaxseg.training import freeze, storage


def digest(tree: Any) -> dict[str, int]:
    """CRC-32 of the bytes of every array, by path: the same however it lies on devices and processes.

    Where arrays are split over processes, each process has to call it; one array at a time is gathered.
    """
    return {path: _crc(x) for path, x in flat(tree).items()}


def _crc(x: Any) -> int:
    if isinstance(x, jax.Array):
        if x.is_fully_replicated:
            x = x.addressable_data(0)
        elif not x.is_fully_addressable:
            x = multihost_utils.process_allgather(x, tiled=True)
    return zlib.crc32(np.ascontiguousarray(np.asarray(x)).reshape(-1).view(np.uint8))


def verify(tree: Any, saved: dict[str, int]) -> None:
    """Raises ValueError naming the first array whose bytes have not the digest that was saved."""
    for path, value in digest(tree).items():
        if path in saved and saved[path] != value:
            raise ValueError(f"the values of {path} are not those that were saved")


def raise_everywhere(error: Exception | None) -> None:
    """Raises where any process has met an error, so that all take the same way from here; each has to call it."""
    met = np.asarray(error is not None)
    if jax.process_count() > 1:
        met = multihost_utils.process_allgather(met).reshape(-1)
    if error is not None:
        raise error
    if met.any():
        raise ValueError(f"process {int(np.argmax(met))} could not read it")


def everywhere(function: Callable[[], Any]) -> Any:
    """What a function gives, if it raises on no process."""
    found, met = None, None
    try:
        found = function()
    except Exception as error:
        met = error
    raise_everywhere(met)
    return found


def flat(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, `params/backbone/...`."""
    return {freeze.path_string(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def compare(saved: dict[str, Any], wanted: dict[str, Any], what: str) -> None:
    """Raises ValueError naming the first entry that only one of them has, or in another shape."""
    # Parameters first: what follows from them (statistics, momentum) says less.
    names = sorted(dict.fromkeys([*wanted, *saved]), key=lambda p: not p.startswith("params"))
    for name in names:
        here = tuple(wanted[name].shape) if name in wanted else None
        there = tuple(saved[name].shape) if name in saved else None
        if here != there:
            shapes = [f"of shape {s}" if s is not None else "absent" for s in (there, here)]
            raise ValueError(
                f"The model of this config differs from {what}: {name} is {shapes[0]} there and "
                f"{shapes[1]} here. Use the config of that run, or another --workdir; to start from weights of a "
                "run with other classes set config.init_from to its work directory."
            )


def check_same(saved: tuple[Any, Any], wanted: tuple[Any, Any], what: str, changed: str) -> None:
    """Raises ValueError, with the first difference, where `saved` and `wanted` are not of one model.

    Args:
      saved: `variables` and `optimizer` of a checkpoint.
      wanted: those of this run.
      what: the checkpoint, for the message.
      changed: the settings that may be the reason, for the message, or "".
    """
    for ours, theirs in zip(wanted, saved, strict=True):
        try:
            compare(flat(theirs), flat(ours), what)
        except ValueError as error:
            raise ValueError(f"{error}{changed and f' Changed: {changed}.'}") from None


def tidy(folder: epath.Path, report: Callable[[str], None]) -> None:
    """Before orbax looks at all checkpoints: ends removals that a kill cut short, sets aside what it would choke on."""
    for step in storage.cut_short(folder):
        report(f"The save of checkpoint {step} was cut short; what there is of it is removed.")
    steps = storage.finished_steps(folder)
    for step in steps:
        file = folder / str(step) / "metrics" / "metrics"
        if step != steps[-1] and not (folder / str(step) / "_CHECKPOINT_METADATA").exists():
            with contextlib.suppress(OSError):
                (folder / str(step)).rmtree(missing_ok=True)
            continue
        try:
            if file.exists():
                json.loads(file.read_text())
        except (ValueError, OSError) as error:
            report(f"Checkpoint {step} is damaged and passed over ({first_line(error)}).")
            set_aside(folder, str(step))


def set_aside(folder: epath.Path, name: str) -> None:
    """Renames `N` to `N.damaged`, which frees its number and loses nothing."""
    if jax.process_index() == 0 and (folder / name).exists():
        taken = {path.name for path in storage.children(folder)}
        target = f"{name}.damaged"
        number = 1
        while target in taken:
            number += 1
            target = f"{name}.damaged{number}"
        storage.rename(folder / name, folder / target)


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """Keeps orbax from logging each error of its threads at length before it raises it."""

    def keep(record) -> bool:
        return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)

    def unraisable(args) -> None:
        # Of the arrays whose write was still under way when another one failed.
        if str(args.exc_value) != "Event loop is closed":
            before(args)

    before, sys.unraisablehook = sys.unraisablehook, unraisable
    logging.get_absl_logger().addFilter(keep)
    try:
        yield
    finally:
        logging.get_absl_logger().removeFilter(keep)
        sys.unraisablehook = before


@contextlib.contextmanager
def without_warning(start: str) -> Iterator[None]:
    """Within it no message that begins with `start` is logged."""

    def keep(record) -> bool:
        return not record.getMessage().startswith(start)

    logging.get_absl_logger().addFilter(keep)
    try:
        yield
    finally:
        logging.get_absl_logger().removeFilter(keep)


def cause(error: BaseException) -> str:
    """What the operating system said, if it is known; TensorStore hides it in a long message."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for use within one of ours."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300].rstrip(".")
