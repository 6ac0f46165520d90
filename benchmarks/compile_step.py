"""Compiles whole training steps for TPU slices and H200s, on a machine that has neither: what fits, what is sent.

    python -m benchmarks.compile_step --places=v5e-2x2,h200-1 --methods=mask_rcnn --kept=DIR
    python -m benchmarks.compile_step --kept=DIR --json=FILE        # everything: hours on two cores
    python -m benchmarks.compile_step --kept=DIR --only_show        # what is kept so far

For each place and method: the step of `train.py` with that place's kernels, batch split over the devices, parameters on
each of them. Memory a device, FLOPs and collectives are what the compiler says of its program; model FLOPs are those of
convolutions and matrix products, by `benchmarks.macs`. The batch that fits is found by a line through a step's
arguments and one compilation, and proven by another; the larger places of a chip take the batch of its smallest.
Nothing runs: this proves neither results nor speed, and a GPU's convolutions may take more memory than is planned here
(cuDNN chooses its algorithms where it runs).

Each compilation takes minutes. It is noted in the folder `--kept` as it ends: the next call does what is left. To have
one done again, delete its line. The compilers are separate packages, which need no device; the command says how to get
those that are missing.
"""

from __future__ import annotations

import gc
import os
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from absl import app, flags
from jax.extend import core

from benchmarks import (
    collectives,
    compile_step_table,
    contest,
    context,
    detector,
    distant_step,
    fitting,
    macs,
    models,
    options,
    targets,
)
from benchmarks.compile_step_table import PLACES, Place
from benchmarks.journal import Journal, supervise
from benchmarks.projection import CHIPS
from configs import backbones, common

_AN_IMAGE = 2e9  # bytes that an image may take, where the search begins

_PLACES = flags.DEFINE_list("places", list(PLACES), "Compile for these: " + ", ".join(PLACES) + ".")
_METHODS = flags.DEFINE_list("methods", list(models.METHODS), "Compile these.")
_BACKBONE = flags.DEFINE_enum("backbone", "r50", backbones.NAMES, "The backbone.")
_SIZE = flags.DEFINE_list("size", ["800", "1344"], "Height and width in pixels.")
_SMALL = flags.DEFINE_bool("small", False, "Widths of configs/small.py, 128 in the FPN.")
_FSDP = flags.DEFINE_integer("fsdp", 1, "Devices that share a copy of the state.", lower_bound=1)
_BATCHES = flags.DEFINE_list(
    "batches", [], "Images a device to compile instead of looking for what fits."
)
_JSON = flags.DEFINE_string("json", None, "Also write the result to this file.")
_KEPT = flags.DEFINE_string("kept", None, "Folder of what was compiled; default: nothing is kept.")
_SHOW = flags.DEFINE_bool("only_show", False, "Compile nothing, show what is kept.")
_STALL = flags.DEFINE_float("stall_seconds", 7200, "Kill what takes longer.", lower_bound=1)
_JOURNAL = flags.DEFINE_string("journal", None, "Do the work, and note it in this file.")

options.only_of("places", PLACES)
options.only_of("methods", models.METHODS)
options.writable("json")
flags.register_validator(
    "kept",
    lambda v: v is None or os.path.isdir(v) or not os.path.exists(v),
    message="is no folder",
)
flags.register_multi_flags_validator(
    ["places", "fsdp"],
    lambda v: all(PLACES[name].devices % v["fsdp"] == 0 for name in v["places"] if name in PLACES),
    message="--fsdp must divide the number of devices of each place",
)
options.canvas("size")
flags.register_validator(
    "batches",
    lambda v: all(x.isdigit() and int(x) > 0 for x in v),
    message="give whole numbers from 1",
)


def main(argv: list[str]) -> int:
    if argv[1:]:
        raise app.UsageError(f"Not understood: {' '.join(argv[1:])}")
    if _JOURNAL.value:
        work(Journal(_JOURNAL.value))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        kept = pathlib.Path(_KEPT.value or folder)
        there = _journals(kept)
        if _SHOW.value and not there:
            raise app.UsageError(f"--only_show: nothing was kept in --kept={_KEPT.value}.")
        _check_kept(there)
        kept.mkdir(parents=True, exist_ok=True)
        platforms = dict.fromkeys(PLACES[name].target.platform for name in _PLACES.value)
        lacking = {} if _SHOW.value else _lacking(platforms)
        for platform in platforms:
            if platform not in lacking and not _SHOW.value:
                _compile_platform(platform, kept, pathlib.Path(folder))
        result = compile_step_table.to_result(_journals(kept))
    print(compile_step_table.table(result))
    for platform, command in lacking.items():
        print(f"Not compiled for {platform}: {command}.")
    if _JSON.value:
        context.write(_JSON.value, result)
    return 1 if lacking or any("error" in row for row in result["rows"]) else 0


def _journals(kept: pathlib.Path) -> list[Journal]:
    return [Journal(path) for path in sorted(kept.glob("*.journal"))]


def _lacking(platforms: Iterable[str]) -> dict[str, str]:
    return {p: command for p in platforms if (command := targets.missing(p))}


def _compile_platform(platform: str, kept: pathlib.Path, folder: pathlib.Path) -> None:
    path, dump = kept / f"{platform}.journal", folder / "dump"
    places = [name for name in _PLACES.value if PLACES[name].target.platform == platform]
    command = [sys.executable, "-m", "benchmarks.compile_step", *sys.argv[1:]]
    command += [f"--places={','.join(places)}", f"--journal={path}"]
    variables = os.environ | targets.environment(platform, str(dump))
    unfinished = supervise(command, path, stall_seconds=_STALL.value, env=variables).unfinished
    if unfinished:
        print(f"{', '.join(places)}: {unfinished}.", file=sys.stderr)


def work(journal: Journal) -> None:
    """Compiles what the journal lacks: a row "PLACE METHOD IMAGES" for each, and "model METHOD" for what it counts."""
    packages = ("jax", "jaxlib", "flax", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu")
    if "context" not in journal.rows:
        journal.end("context", context.machine(*packages) | _what() | {"dtype": "bfloat16"})
    for name in _PLACES.value:
        for method in _METHODS.value:
            _do(journal, f"model {method}", lambda m=method: _model(m))
            while (images := _next(journal.rows, name, method)) is not None:
                key = f"{name} {method} {images}"
                _do(journal, key, lambda m=method, n=name, i=images: row(PLACES[n], m, i))
                if "error" in journal.rows[key]:
                    break
    journal.finish()


def _what() -> dict[str, Any]:
    """What all programs of a folder have in common."""
    flags_of_all = {"backbone": _BACKBONE, "size": _SIZE, "small": _SMALL, "fsdp": _FSDP}
    return {name: flag.value for name, flag in flags_of_all.items()}


def _check_kept(journals: Iterable[Journal]) -> None:
    for journal in journals:
        there = {"fsdp": 1} | journal.rows.get("context", _what())
        differ = [n for n, value in _what().items() if there[n] != value]
        if differ:
            asked, found = (
                ", ".join(f"--{n}={of[n]!r}" for n in differ) for of in (_what(), there)
            )
            raise app.UsageError(
                f"--kept={_KEPT.value} has programs of other settings than {asked}: give {found}, or take another "
                "folder."
            )


def _do(journal: Journal, key: str, make: Callable[[], dict[str, Any]]) -> None:
    if key in journal.rows:
        return
    journal.begin(key)
    try:
        made = make()
    except Exception as error:
        made = {"error": contest.line(error)}
    journal.end(key, {"commit": context.commit()} | made)  # a folder may hold several commits' work
    gc.collect()


def _next(rows: Mapping[str, Any], name: str, method: str) -> int | None:
    """The images a device to compile next."""
    points = compile_step_table.points(rows, name, method)
    if _BATCHES.value:
        return next((int(n) for n in _BATCHES.value if int(n) not in points), None)
    place = PLACES[name]
    limit = CHIPS[place.chip].memory
    unit = 1 if place.devices > 1 else _together(method)
    first = max(1, int(limit // _AN_IMAGE) // unit)
    if place.like:
        known = compile_step_table.points(rows, place.like, method)
        first = max(1, fitting.largest(known, limit))
        if fitting.largest(points, limit):
            return None
    found = fitting.next_batch({n // unit: size for n, size in points.items()}, limit, (first,))
    return found and found * unit


def _together(method: str) -> int:
    """Images whose candidates are ranked together: a batch must hold whole groups of them."""
    criterion = models.METHODS[method](_BACKBONE.value).model.criterion
    return criterion.rank_sort.group if criterion.name == "rank_sort" else 1


def _model(method: str) -> dict[str, float | None]:
    """FLOPs of an image's step, gradients included; XLA's figure is that of the program as it is lowered for a CPU."""
    images = _together(method)
    config = _config(method, images)
    config.model.roi_align = "xla"  # the same count everywhere
    jaxpr = detector.training_jaxpr(config)
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in jaxpr.in_avals]
    costs = jax.jit(core.jaxpr_as_fun(jaxpr)).lower(*shapes).cost_analysis() or {}
    count = macs.total(list(macs.operations(jaxpr.jaxpr)))
    xla = costs.get("flops")
    return {"flops": 2 * count / images, "xla_flops": xla and xla / images}


def _config(method: str, batch: int):
    config = models.METHODS[method](_BACKBONE.value)
    if _SMALL.value:
        common.small(config)
        config.model.fpn.channels = 128  # fewer are not for a TPU's kernels
    height, width = map(int, _SIZE.value)
    config = detector.prepared(config, size=(height, width), batch=batch, dtype="bfloat16")
    config.unlock()
    config.mesh.fsdp = _FSDP.value
    return config


def row(place: Place, method: str, images: int) -> dict[str, Any]:
    """Of one compilation, `images` on each device."""
    devices = targets.devices(place.target)
    begin = time.perf_counter()
    lowered = distant_step.lowered(_config(method, images * len(devices)), devices)
    middle = time.perf_counter()
    try:
        program = lowered.compile()
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"refused": contest.line(error), "planned_bytes": fitting.asked(str(error))}
    end = time.perf_counter()
    text = program.as_text()
    costs = program.cost_analysis() or {}
    found = collectives.parse(text, len(devices))
    return {
        "lower_seconds": round(middle - begin, 1),
        "compile_seconds": round(end - middle, 1),
        **detector.memory(program),
        "argument_bytes": program.memory_analysis().argument_size_in_bytes,
        "xla_flops": costs.get("flops"),
        "kernels": len(
            re.findall(
                r'custom_call_target="(?:tpu_custom_call|mosaic_gpu\w*|__gpu\$xla\.gpu\.triton)"',
                text,
            )
        ),
        "collectives": collectives.summary(found),
    }


if __name__ == "__main__":
    app.run(main)
