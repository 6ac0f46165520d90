"""Non-maximum suppression: jaxseg's beside torchvision's loop and a loop in XLA.

    python -m benchmarks.nms                                   # 1000, 2000 and 4000 boxes, one list and eight at once
    python -m benchmarks.nms --boxes=1000,2000 --lists=1,40    # 40: five levels of eight images, as in training
    python -m benchmarks.nms --json=FILE

Boxes come as a trained RPN's: several around each object, with scores that fall with their distance. `scattered` has
boxes at random instead, and `chain` a row of boxes in which each overlaps the next: the worst case of a fixed point,
which takes as many rounds as there are boxes.

A program that keeps other boxes than the loop, or in another order, has no times. torchvision takes the lists one after
another, as its models do (`batched_nms` merges classes, not images).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
Lists = Sequence[np.ndarray]  # indices of what is kept, best first


def define_flags() -> None:
    flags.DEFINE_list("boxes", ["1000", "2000", "4000"], "Boxes of a list.")
    flags.DEFINE_list("lists", ["1", "8"], "Lists at once.")
    flags.DEFINE_integer("max_out", 1000, "Slots of the result.", lower_bound=1)
    flags.DEFINE_integer("repeats", 7, "Timings of each.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the random boxes.")
    flags.DEFINE_string("json", None, "Also write the result to this file.")
    options.writable("json")
    for name in ("boxes", "lists"):
        flags.register_validator(
            name,
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


def _jax(function: Callable, boxes: np.ndarray, scores: np.ndarray, expected: Lists) -> Contestant:
    arrays = jax.device_put((boxes, scores))
    program = jax.jit(jax.vmap(function)).lower(*arrays).compile()
    last = {}

    def run():
        last["kept"] = program(*arrays)
        return last["kept"]

    def check():
        kept = jax.device_get(last["kept"])
        return _same([i[v] for i, v in zip(*kept, strict=True)], expected)

    return Contestant(run, jax.block_until_ready, check)


def _torchvision(boxes: np.ndarray, scores: np.ndarray, expected: Lists) -> Contestant:
    torch, vision = torchvision_peer.import_torch()
    device = "cuda" if jax.devices()[0].platform == "gpu" else "cpu"
    lists = [
        (torch.from_numpy(b).to(device), torch.from_numpy(s).to(device))
        for b, s in zip(boxes, scores, strict=True)
    ]
    last = {}

    def run():
        last["kept"] = [vision.ops.nms(b, s, IOU)[: flags.FLAGS.max_out] for b, s in lists]
        return last["kept"]

    def wait(_):
        if device == "cuda":
            torch.cuda.synchronize()

    return Contestant(run, wait, lambda: _same([k.cpu().numpy() for k in last["kept"]], expected))


def _same(found: Lists, expected: Lists) -> float:
    """How many are kept. Raises if they are not those that are expected."""
    different = sum(not np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    if different:
        raise ArithmeticError(f"other boxes are kept than the loop keeps, in {different} lists")
    return float(sum(map(len, found)))


def measure(kind: str, count: int, lists: int) -> dict[str, Any]:
    """The row of each program; `skipped` where there is no torchvision."""
    rng = np.random.default_rng(flags.FLAGS.seed)
    pairs = [KINDS[kind](rng, count) for _ in range(lists)]
    boxes, scores = (np.stack(part) for part in zip(*pairs, strict=True))

    def own(boxes, scores):
        valid = jnp.ones(len(boxes), bool)
        return nms_lib.nms(boxes, scores, valid, iou_threshold=IOU, max_out=flags.FLAGS.max_out)

    def sequential(boxes, scores):
        return loop(boxes, scores, flags.FLAGS.max_out)

    kept = jax.device_get(jax.jit(jax.vmap(sequential))(boxes, scores))
    expected = [index[valid] for index, valid in zip(*kept, strict=True)]
    contestants = {
        "jaxseg": _jax(own, boxes, scores, expected),
        "loop in XLA": _jax(sequential, boxes, scores, expected),
    }
    skipped = {}
    try:
        contestants["torchvision"] = _torchvision(boxes, scores, expected)
    except torchvision_peer.Unavailable as reason:
        skipped = {"torchvision": {"skipped": str(reason)}}
    return contest.take_turns(contestants, repeats=flags.FLAGS.repeats, least=0.05) | skipped


def _cells(row: dict[str, Any]) -> str:
    if "seconds" not in row:
        return f"{row.get('error') or row.get('skipped')} |"
    ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
    return f"{row['seconds'] * 1e3:.2f} | {ratio}"


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Not understood: {' '.join(argv[1:])}")
    result = {"benchmark": "nms", **worker.described(), "max_out": flags.FLAGS.max_out, "rows": []}
    print(context.headline(result), end="\n\n")
    print(
        "| boxes | kind | lists | program | ms | times jaxseg's seconds |\n|---:|---|---:|---|---:|---:|"
    )
    for count in map(int, flags.FLAGS.boxes):
        for lists in map(int, flags.FLAGS.lists):
            for kind in KINDS:
                rows = measure(kind, count, lists)
                result["rows"].append({"boxes": count, "kind": kind, "lists": lists, **rows})
                for name, row in rows.items():
                    print(f"| {count} | {kind} | {lists} | {name} | {_cells(row)} |", flush=True)
    if flags.FLAGS.json:
        context.write(flags.FLAGS.json, result | {"load_after": context.load()})


if __name__ == "__main__":
    define_flags()
    app.run(main)
