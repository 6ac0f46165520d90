"""How long Rank & Sort takes: forms of `losses.rank_sort` beside the published loop over positives.

    python -m benchmarks.rank_sort --json=docs/benchmarks/rank_sort_cpu.json

The sizes are those of training with 800 x 1344 pixels: the RPN of one image and of four, the box head of four images of
80 classes. The loop is the authors' algorithm, compiled by XLA as the others are: each positive against all candidates,
one after another, in O(P + N) memory. Theirs leaves out negatives that no positive reaches; `reached` says which share
of all that does not help with. Logits are drawn as at the start of training (`mixed`: positives and negatives alike) or
as later (`apart`: positives lie higher, and few negatives are reached).

Forward and gradient are timed together. The forms take turns; ratios are of medians within one run. Memory is what XLA
plans for temporaries; `difference` is the largest difference of gradients from the loop's, times the positives.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Array

from benchmarks import context, options, timing, worker
from jaxseg.losses import rank_sort as lib

SIZES = {"rpn, 1 image": 268_569, "rpn, 4 images": 1_074_276, "box head, 4 images": 320_000}
LOGITS = ("mixed", "apart")
_SIZES = flags.DEFINE_list("sizes", [*map(str, SIZES.values())], "Numbers of candidates.")
_POSITIVES = flags.DEFINE_list("positives", ["100", "1000", "2000"], "Numbers of positives.")
_LOGITS = flags.DEFINE_list("logits", [*LOGITS], "How logits are drawn.")
_FORMS = flags.DEFINE_list("forms", ["loop", *lib.FORMS], "What is timed.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timings of each.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Also write the result to this file.")
options.writable("json")
options.only_of("logits", LOGITS)
options.only_of("forms", ("loop", *lib.FORMS))
flags.register_multi_flags_validator(
    ["sizes", "positives"],
    lambda v: all(x.isdigit() and int(x) > 0 for x in v["sizes"] + v["positives"]),
    message="--sizes and --positives take whole numbers above 0",
)
_DELTA = 0.5


def loop(
    logits: Array, targets: Array, positive: Array, valid: Array
) -> tuple[Array, Array, Array]:
    """(ranking, sorting, gradient of their sum), positive by positive, from the lowest logit to the highest."""
    own = jnp.where(positive & valid, logits, jnp.inf)
    count = (positive & valid).sum()
    order, negative = jnp.argsort(own), valid & ~positive

    def step(turn, carry):
        ranking, sorting, gradient = carry
        i = order[turn]
        above = jnp.clip((logits - logits[i]) / (2 * _DELTA) + 0.5, 0.0, 1.0)
        among, false = above * (positive & valid), above * negative
        rank, errors = among.sum(), false.sum()
        l_rank = errors / (rank + errors)
        better = among * (targets >= targets[i])
        worse = among - better
        l_sort = (among * (1 - targets)).sum() / rank - (
            better * (1 - targets)
        ).sum() / better.sum()
        moved_rank = jnp.where(errors > 1e-10, l_rank / jnp.maximum(errors, 1e-10), 0.0)
        moved_sort = jnp.where(worse.sum() > 1e-10, l_sort / jnp.maximum(worse.sum(), 1e-10), 0.0)
        gradient = gradient + moved_rank * false + moved_sort * worse
        gradient = gradient.at[i].add(-moved_rank * errors - moved_sort * worse.sum())
        return ranking + l_rank, sorting + l_sort, gradient

    start = jnp.zeros(()), jnp.zeros(()), jnp.zeros_like(logits)
    ranking, sorting, gradient = jax.lax.fori_loop(0, count, step, start)
    return ranking / count, sorting / count, gradient / count


def form(name: str) -> Callable[..., tuple[Array, Array, Array]]:
    """`loop`, or a form of `losses.rank_sort` with its gradient."""
    if name == "loop":
        return loop
    loss = functools.partial(lib.rank_sort, delta=_DELTA, form=name)

    def run(logits, *rest):
        def total(logits):
            ranking, sorting = loss(logits, *rest)
            return ranking + sorting, (ranking, sorting)

        gradient, values = jax.grad(total, has_aux=True)(logits)
        return *values, gradient

    return run


def drawn(size: int, positives: int, kind: str) -> tuple[tuple[Array, ...], float]:
    """(logits, targets, positive, valid), and the share of candidates that a positive reaches."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=size).astype(np.float32)
    positive = np.zeros(size, bool)
    positive[rng.choice(size, positives, replace=False)] = True
    if kind == "apart":
        logits = np.where(positive, logits + 1, 1.5 * logits - 4).astype(np.float32)
    targets = np.where(positive, rng.uniform(0.5, 1, size), 0).astype(np.float32)
    reached = logits >= logits[positive].min() - _DELTA
    arrays = (logits, targets, positive, np.ones(size, bool))
    return tuple(map(jnp.asarray, arrays)), float(reached.mean())


def rows() -> list[dict[str, Any]]:
    names = {size: name for name, size in SIZES.items()}
    found = []
    for size in map(int, _SIZES.value):
        for positives in map(int, _POSITIVES.value):
            for kind in _LOGITS.value:
                what = {"what": names.get(size, ""), "candidates": size, "positives": positives}
                found += measure({**what, "logits": kind})
    return found


def measure(what: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each form, on the same logits; one whose gradient is not finite has no times."""
    arrays, reached = drawn(what["candidates"], what["positives"], what["logits"])
    memory, gradients, calls, seconds, result = {}, {}, {}, {}, []
    for name in _FORMS.value:
        compiled = jax.jit(form(name)).lower(*arrays).compile()
        memory[name] = round(compiled.memory_analysis().temp_size_in_bytes / 2**20, 1)
        gradients[name] = np.asarray(compiled(*arrays)[2], np.float64)
        if not np.isfinite(gradients[name]).all():
            result.append({**what, "form": name, "error": "the gradient is not finite"})
            print(_line(result[-1]), flush=True)
            continue
        run = functools.partial(compiled, *arrays)
        calls[name] = timing.timed(run, jax.block_until_ready, least=0.1)
        seconds[name] = []
    for _ in range(_REPEATS.value):
        for name, call in calls.items():
            seconds[name].append(timing.seconds_a_call(call))
    median = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        row = {**what, "reached": round(reached, 4), "form": name}
        row |= {
            "seconds": round(median[name], 4),
            "spread": [round(f(times), 4) for f in (min, max)],
        }
        row["temporaries_mib"] = memory[name]
        if "loop" in median:
            apart = np.abs(gradients[name] - gradients["loop"]).max() * what["positives"]
            row["times_faster"] = round(median["loop"] / median[name], 1)
            row["difference"] = float(f"{apart:.1e}")
        result.append(row)
        print(_line(row), flush=True)
    return result


def _line(row: dict[str, Any]) -> str:
    keys = ("candidates", "positives", "logits", "reached", "form", "seconds", "times_faster")
    row = {"seconds": row.get("error")} | row
    return (
        "| "
        + " | ".join(str(row.get(k, "")) for k in (*keys, "temporaries_mib", "difference"))
        + " |"
    )


def main(_: list[str]) -> None:
    result = {
        "benchmark": "rank_sort",
        **worker.described(),
        "repeats": _REPEATS.value,
    }
    print(context.headline(result), end="\n\n")
    print(
        "| candidates | positives | logits | reached | form | seconds | times the loop's speed | temporaries, MiB | "
        "difference |\n|---:|---:|---|---:|---|---:|---:|---:|---:|"
    )
    result |= {"rows": rows(), "load_after": context.load()}
    if _JSON.value:
        context.write(_JSON.value, result)


if __name__ == "__main__":
    app.run(main)
