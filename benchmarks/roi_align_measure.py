"""Checks, then times, every implementation of RoIAlign on the same arrays, with a copy of as many bytes beside them."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import roi_align_baselines, timing
from benchmarks.journal import Journal
from pallas_kernels.roi_align import choice
from pallas_kernels.roi_align.arg_specs import Args, ArgSpec
from pallas_kernels.roi_align.grid import sample_grid

DIRECTIONS = ("forward", "backward", "forward_backward")
BASELINES = ("gather", "torchvision")
NAMES = (*choice.IMPLEMENTATIONS, *BASELINES)
# Largest difference from xla, relative to its largest value: the order of float32 sums, or a bfloat16's rounding.
_TOLERANCE = {"float32": 2e-5, "bfloat16": 1e-2}
_RESULTS = ("out", "d_features", "d_probabilities")
_LEAST_SECONDS = 0.02  # of one timing


class Contestant(NamedTuple):
    """An implementation, ready to run on its arrays."""

    run: dict[str, Callable[[], object]]  # by direction
    wait: Callable[[object], object]
    results: Callable[[], tuple]  # (out, gradients of the features, of the probabilities or None)
    temp_bytes: dict[str, int]  # that the compiled program needs besides its arguments and results
    note: str | None = None


def measure(
    journal: Journal,
    name: str,
    arg_spec: ArgSpec,
    implementations: Iterable[str],
    *,
    repeats: int,
    seed: int,
) -> None:
    """Writes the row "NAME IMPLEMENTATION" of each that has none yet, and the row "spec NAME" of the floors."""
    left = [i for i in implementations if f"{name} {i}" not in journal.rows]
    if not left or "error" in journal.rows.get(f"spec {name}", ()):
        return
    journal.begin(f"spec {name}")
    try:
        args = arg_spec.random_args(seed)
        reference = _contestant("xla", arg_spec, args).results()
        copy = _copy(_bytes(arg_spec, args)["pyramid"])
    except Exception as error:
        journal.end(f"spec {name}", {"error": _line(error)})
        return _stop_if_broken()
    rows, contestants = {}, {}
    for implementation in left:
        key = f"{name} {implementation}"
        rows[key] = {"spec": name, "implementation": implementation}
        journal.begin(key)
        try:
            contestant = _contestant(implementation, arg_spec, args)
            rows[key] |= _compare(contestant, reference, *_demands(implementation, arg_spec.dtype))
            contestants[key] = contestant
        except NotImplementedError as reason:
            journal.end(key, rows[key] | {"skipped": str(reason)})
        except Exception as error:
            journal.end(key, rows[key] | {"error": _line(error)})
            _stop_if_broken()
    del reference
    seconds = _take_turns(journal, rows, contestants, copy, repeats)
    journal.end(f"spec {name}", _floors(arg_spec, args, seconds.pop("copy")["copy"]))
    for key, of_key in seconds.items():
        journal.end(key, rows[key] | _summary(of_key, contestants[key]))


def _contestant(implementation: str, arg_spec: ArgSpec, args: Args) -> Contestant:
    """Raises NotImplementedError with the reason if it does not apply here."""
    if implementation == "torchvision":
        return _torchvision(arg_spec, args)
    if implementation == "gather":
        return _jax(lambda args: roi_align_baselines.gather(arg_spec, args), args)
    try:
        choice.choose(implementation, arg_spec.spec)
    except ValueError as reason:
        raise NotImplementedError(str(reason)) from reason
    return _jax(lambda args: arg_spec.call(args, implementation), args)


def _jax(call: Callable[[Args], jax.Array], args: Args) -> Contestant:
    def both(args):
        def of_inputs(features, probabilities):
            return call(args._replace(features=features, probabilities=probabilities))

        out, vjp = jax.vjp(of_inputs, args.features, args.probabilities)
        return out, *vjp(args.d_out)

    # The compiler leaves out the forward where only the gradients are asked for.
    functions = dict(forward=call, backward=lambda args: both(args)[1:], forward_backward=both)
    programs = {n: jax.jit(f).lower(args).compile() for n, f in functions.items()}
    run = {n: lambda program=program: program(args) for n, program in programs.items()}
    temp = {n: p.memory_analysis().temp_size_in_bytes for n, p in programs.items()}
    return Contestant(run, jax.block_until_ready, run["forward_backward"], temp)


def _torchvision(arg_spec: ArgSpec, args: Args) -> Contestant:
    operator = roi_align_baselines.Torchvision(arg_spec, args, jax.devices()[0].platform)
    run = {direction: getattr(operator, direction) for direction in DIRECTIONS}
    return Contestant(run, operator.wait, lambda: (*operator.results(), None), {}, operator.note)


def _demands(implementation: str, dtype: np.dtype) -> tuple[float, Collection[str]]:
    """The tolerance, and the results that it holds for."""
    tolerance = _TOLERANCE[dtype.name]
    if implementation not in BASELINES:
        return tolerance, _RESULTS
    # They round their own sample positions, 3e-5 of a cell at the far end of a map. Their gradients are taken as they
    # come: in bfloat16 they are sums of bfloat16.
    return 10 * tolerance, ("out",)


def _compare(
    contestant: Contestant, reference: tuple, tolerance: float, judged: Collection[str]
) -> dict[str, object]:
    """The errors relative to the reference's largest values, and whether a second run gives the same bits.

    Raises:
      ArithmeticError: one of the results `judged` has a larger error than `tolerance`, or a NaN.
    """
    results = contestant.results()
    errors = {
        name: float(_error(got, want))
        for name, got, want in zip(_RESULTS, results, reference, strict=True)
        if want is not None
    }
    if not all(error <= tolerance for name, error in errors.items() if name in judged):
        raise ArithmeticError(f"wrong: relative errors {errors}")
    return {"errors": errors, "same_bits_twice": bool(_same_bits(results, contestant.results()))}


@jax.jit
def _error(got, want):
    """The largest difference over the largest value; NaN if there is one."""
    got, want = ([x.astype(jnp.float32) for x in jax.tree.leaves(tree)] for tree in (got, want))
    differences = [jnp.max(jnp.abs(g - w)) for g, w in zip(got, want, strict=True)]
    return jnp.max(jnp.stack(differences)) / jnp.max(jnp.stack([jnp.max(jnp.abs(w)) for w in want]))


@jax.jit
def _same_bits(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jnp.all(jnp.stack([jnp.all(x == y) for x, y in pairs]))


def _copy(size: int) -> Contestant:
    """Reads and writes `size` bytes: a negation, since a plain copy could be left out."""
    x = jnp.ones(size // 4, jnp.float32)
    program = jax.jit(jnp.negative).lower(x).compile()
    return Contestant({"copy": lambda: program(x)}, jax.block_until_ready, tuple, {})


def _take_turns(
    journal, rows, contestants, copy, repeats: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each timing, by contestant and by what was run; one that breaks is left out from then on."""
    seconds, calls = {}, {}
    contestants = {"copy": copy} | contestants
    for turn in range(repeats + 1):  # the first plans and warms up
        for key, contestant in list(contestants.items()):
            if key != "copy":
                journal.begin(key)
            try:
                for name, run in contestant.run.items():
                    if not turn:
                        calls[key, name] = timing.timed(run, contestant.wait, _LEAST_SECONDS)
                        continue
                    took = timing.seconds_a_call(calls[key, name])
                    seconds.setdefault(key, {}).setdefault(name, []).append(took)
            except Exception as error:
                if key == "copy":
                    raise
                journal.end(key, rows[key] | {"error": _line(error)})
                del contestants[key]
                seconds.pop(key, None)
                _stop_if_broken()
    return seconds


def _summary(seconds: dict[str, list[float]], contestant: Contestant) -> dict[str, object]:
    try:
        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    except jax.errors.JaxRuntimeError:  # not every backend keeps count
        peak = None
    return {
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "fastest": {name: min(times) for name, times in seconds.items()},
        "slowest": {name: max(times) for name, times in seconds.items()},
        "temp_bytes": contestant.temp_bytes,
        "process_peak_bytes": peak,
        **({"note": contestant.note} if contestant.note else {}),
    }


def _bytes(arg_spec: ArgSpec, args: Args) -> dict[str, int]:
    def size(tree):
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    return {
        "pyramid": size(args.features),
        "touched": _touched_cells(arg_spec, args) * arg_spec.channels * arg_spec.dtype.itemsize,
        "out": size(args.d_out),
        "probabilities": size(args.probabilities),
    }


def _touched_cells(arg_spec: ArgSpec, args: Args) -> int:
    """Cells of all maps that some sample has a share of."""
    grid = jax.tree.map(np.asarray, sample_grid(args.boxes, args.levels, None, arg_spec.spec))
    total = 0
    for level, shape in enumerate(arg_spec.spec.shapes):
        touched = np.zeros((arg_spec.batch, *shape), bool)
        for image, roi in np.argwhere(grid.level == level):
            rows, columns = (
                np.unique([np.floor(p[p >= 0]), np.ceil(p[p >= 0])]).astype(int)
                for p in (grid.rows[image, roi], grid.columns[image, roi])
            )
            touched[image][np.ix_(rows, columns)] = True
        total += int(touched.sum())
    return total


def _floors(arg_spec: ArgSpec, args: Args, copy_seconds: list[float]) -> dict[str, object]:
    """What the spec is, and the seconds that its bytes take at the bandwidth of a copy."""
    count = _bytes(arg_spec, args)
    bandwidth = 2 * count["pyramid"] / min(copy_seconds)  # read and written
    once = {
        "forward": count["pyramid"] + count["out"] + count["probabilities"],
        "forward_touched": count["touched"] + count["out"] + count["probabilities"],
        "backward": count["out"] + count["pyramid"],
    }
    if count["probabilities"]:
        once["backward"] += count["pyramid"] + 2 * count["probabilities"]
    once["forward_backward"] = once["forward"] + once["backward"]
    return {
        "batch": arg_spec.batch,
        "image": arg_spec.image,
        "rois": arg_spec.rois,
        "output_size": arg_spec.output_size,
        "channels": arg_spec.channels,
        "dtype": arg_spec.dtype.name,
        "probabilities": arg_spec.probabilities,
        "bytes": count,
        "copy_bytes_per_second": bandwidth,
        "floor_seconds": {name: size / bandwidth for name, size in once.items()},
    }


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300] if text else ''}"


def _stop_if_broken() -> None:
    """Ends the process if its device no longer computes, as after a kernel's bad access; a new one is started."""
    try:
        jax.block_until_ready(jnp.ones(8) + 1)
    except Exception:
        os._exit(1)  # an orderly end would wait for the device
