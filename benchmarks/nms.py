"""Non-maximum suppression: jaxseg's fixed point beside torchvision's loop and a loop in XLA.

    python -m benchmarks.nms                                   # 1000, 2000 and 4000 boxes, one list and eight at once
    python -m benchmarks.nms --boxes=1000,2000 --lists=1,40    # 40: five levels of eight images, as in training
    python -m benchmarks.nms --json=FILE

Boxes come as a trained RPN's: several around each object, with scores that fall with their distance. `scattered` has
boxes at random instead, and `chain` a row of boxes in which each overlaps the next: the fixed point then takes as many
rounds as there are boxes, its worst case. Results are compared before anything is timed. torchvision takes the lists
one after another, as its models do (`batched_nms` merges classes, not images).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import contest, context, options, torchvision_peer, worker
from benchmarks.contest import Contestant
from jaxseg.ops import boxes as box_ops
from jaxseg.ops import nms as nms_lib

IOU = 0.7
_BOXES = flags.DEFINE_list("boxes", ["1000", "2000", "4000"], "Boxes of a list.")
_LISTS = flags.DEFINE_list("lists", ["1", "8"], "Lists at once.")
_KEPT = flags.DEFINE_integer("max_out", 1000, "Slots of the result.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timings of each.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the random boxes.")
_JSON = flags.DEFINE_string("json", None, "Also write the result to this file.")
options.writable("json")
for _name in ("boxes", "lists"):
    flags.register_validator(
        _name,
        lambda v: bool(v) and all(x.isdigit() and int(x) > 0 for x in v),
        message="whole numbers above 0 are needed",
    )


def clustered(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten boxes around each object, moved by up to a tenth of its size; the nearer, the better."""
    objects = max(1, count // 10)
    centre, size = rng.uniform(0, 800, (objects, 2)), np.exp(rng.uniform(2, 6, (objects, 2)))
    which = np.arange(count) % objects
    moved = rng.normal(0, 0.05, (count, 4))
    middle = centre[which] + moved[:, :2] * size[which]
    sides = size[which] * np.exp(moved[:, 2:])
    boxes = np.concatenate([middle - sides / 2, middle + sides / 2], 1).astype(np.float32)
    return boxes, (-np.abs(moved).sum(1) + rng.normal(0, 0.01, count)).astype(np.float32)


def scattered(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    corner, size = rng.uniform(0, 800, (count, 2)), np.exp(rng.uniform(2, 6, (count, 2)))
    boxes = np.concatenate([corner, corner + size], 1).astype(np.float32)
    return boxes, rng.normal(size=count).astype(np.float32)


def chain(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """IoU of neighbours 0.82, of the next but one 0.67."""
    del rng
    left = np.arange(count, dtype=np.float32) * 10
    boxes = np.stack([left, 0 * left, left + 100, 0 * left + 100], 1)
    return boxes, -np.arange(count, dtype=np.float32)


KINDS = {"clustered": clustered, "scattered": scattered, "chain": chain}


def loop(boxes: jax.Array, scores: jax.Array, max_out: int) -> nms_lib.Kept:
    """The sequential algorithm with static shapes: `max_out` times the best box that is left."""

    def step(alive, _):
        best = jnp.argmax(jnp.where(alive, scores, -jnp.inf))
        overlap = box_ops.iou(boxes[best][None], boxes)[0] > IOU
        return alive & ~overlap & (jnp.arange(len(boxes)) != best), (best, alive[best])

    _, (index, valid) = jax.lax.scan(step, jnp.ones(len(boxes), bool), length=max_out)
    return nms_lib.Kept(jnp.where(valid, index, 0).astype(jnp.int32), valid)


def _jax(function: Callable, boxes: np.ndarray, scores: np.ndarray) -> Contestant:
    arrays = jax.device_put((boxes, scores))
    program = jax.jit(jax.vmap(function)).lower(*arrays).compile()
    last = {}

    def run():
        last["kept"] = program(*arrays)
        return last["kept"]

    return Contestant(run, jax.block_until_ready, lambda: float(last["kept"].valid.sum()))


def _torchvision(boxes: np.ndarray, scores: np.ndarray) -> Contestant:
    torch, vision = torchvision_peer.import_torch()
    device = "cuda" if jax.devices()[0].platform == "gpu" else "cpu"
    lists = [
        (torch.from_numpy(b).to(device), torch.from_numpy(s).to(device))
        for b, s in zip(boxes, scores, strict=True)
    ]
    last = {}

    def run():
        last["kept"] = [vision.ops.nms(b, s, IOU)[: _KEPT.value] for b, s in lists]
        return last["kept"]

    def wait(_):
        if device == "cuda":
            torch.cuda.synchronize()

    return Contestant(run, wait, lambda: float(sum(map(len, last["kept"]))))


def measure(kind: str, count: int, lists: int) -> dict[str, Any]:
    """The row of each program; `skipped` where there is no torchvision."""
    rng = np.random.default_rng(_SEED.value)
    pairs = [KINDS[kind](rng, count) for _ in range(lists)]
    boxes, scores = (np.stack(part) for part in zip(*pairs, strict=True))

    def fixed_point(boxes, scores):
        valid = jnp.ones(len(boxes), bool)
        return nms_lib.nms(boxes, scores, valid, iou_threshold=IOU, max_out=_KEPT.value)

    contestants = {
        "jaxseg": _jax(fixed_point, boxes, scores),
        "loop in XLA": _jax(lambda b, s: loop(b, s, _KEPT.value), boxes, scores),
    }
    skipped = {}
    try:
        contestants["torchvision"] = _torchvision(boxes, scores)
    except torchvision_peer.Unavailable as reason:
        skipped = {"torchvision": {"skipped": str(reason)}}
    rows = contest.take_turns(contestants, repeats=_REPEATS.value, least=0.02)
    kept = {name: row["check"] for name, row in rows.items()}
    if len(set(kept.values())) != 1:
        raise ArithmeticError(f"{kind}, {count} boxes: not the same number is kept: {kept}")
    return rows | skipped


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Not understood: {' '.join(argv[1:])}")
    result = {"benchmark": "nms", **worker.described(), "max_out": _KEPT.value, "rows": []}
    print(
        "| boxes | kind | lists | program | ms | times jaxseg's seconds |\n|---:|---|---:|---|---:|---:|"
    )
    for count in map(int, _BOXES.value):
        for lists in map(int, _LISTS.value):
            for kind in KINDS:
                rows = measure(kind, count, lists)
                result["rows"].append({"boxes": count, "kind": kind, "lists": lists, **rows})
                for name, row in rows.items():
                    text = (
                        row.get("skipped") or f"{row['seconds'] * 1e3:.2f} | {1 / row['ratio']:.2f}"
                    )
                    print(f"| {count} | {kind} | {lists} | {name} | {text} |", flush=True)
    if _JSON.value:
        context.write(_JSON.value, result | {"load_after": context.load()})


if __name__ == "__main__":
    app.run(main)
