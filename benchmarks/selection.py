"""What choosing boxes takes of a detection: top-k, decoding and suppression, each stage compiled by itself.

    python -m benchmarks.selection                                 # a CPU: one image of 512 x 512
    python -m benchmarks.selection --size=800,1344 --batch_size=16 --json=FILE

`proposals` is all between the RPN head and the box head, `top-k` the best anchors of each level alone, `detections` all
between the box head and the mask head; `in training`: with the config's numbers of candidates for training. Scores and
boxes come as a trained model's: high and moved onto the object where an anchor fits one. The whole detection has random
weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from benchmarks import contest, context, detector, models, options, scene, worker
from benchmarks.contest import Contestant
from jaxseg import methods
from jaxseg.modeling import roi_heads
from jaxseg.modeling.rpn import RPN
from jaxseg.ops import boxes as boxes_lib
from jaxseg.structures import Pyramid, RoIs

STRIDES = (4, 8, 16, 32, 64)
OBJECTS = 20


def define_flags() -> None:
    flags.DEFINE_list("size", ["512", "512"], "Height and width in pixels, multiples of 64.")
    flags.DEFINE_integer("batch_size", 1, "Images a call.", lower_bound=1)
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Compute dtype of the whole.")
    flags.DEFINE_integer("repeats", 7, "Timings of each.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the random numbers.")
    flags.DEFINE_bool("whole", True, "Also the whole detection.")
    flags.DEFINE_string("json", None, "Also write the result to this file.")
    options.writable("json")
    flags.register_validator(
        "size",
        lambda v: len(v) == 2 and all(x.isdigit() and int(x) > 0 and int(x) % 64 == 0 for x in v),
        message="allowed are HEIGHT,WIDTH, both multiples of 64",
    )


def pyramid(size: tuple[int, int], batch: int) -> Pyramid:
    """Of images that fill the canvas; without channels."""
    levels = tuple(jnp.zeros((batch, size[0] // s, size[1] // s, 0)) for s in STRIDES)
    return Pyramid(levels, jnp.tile(jnp.asarray([size], jnp.float32), (batch, 1)), STRIDES)


def objects(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """xyxy boxes, sides 16 pixels to half of the image's."""
    extent = np.array(size[::-1])
    sides = np.exp(rng.uniform(np.log(16), np.log(extent / 2), (OBJECTS, 2)))
    corner = rng.uniform(0, 1, (OBJECTS, 2)) * (extent - sides)
    return np.concatenate([corner, corner + sides], 1).astype(np.float32)


def rpn_outputs(rng: np.random.Generator, rpn: RPN, levels: Pyramid) -> tuple[list, list]:
    """Logits (B, A) and deltas (B, A, 4) a level."""
    height, width = levels.image_size[0].astype(int).tolist()
    logits, deltas = [], []
    for anchors in rpn.anchors(levels):
        every = []
        for _ in range(levels.image_size.shape[0]):
            found = objects(rng, (height, width))
            overlap = np.asarray(boxes_lib.iou(jnp.asarray(anchors), jnp.asarray(found)))
            best, nearest = overlap.max(1), found[overlap.argmax(1)]
            aims = map(jnp.asarray, (nearest, anchors))
            to_object = np.asarray(boxes_lib.encode(*aims, rpn.coder))
            noise = rng.normal(0, 0.1, (len(anchors), 5)).astype(np.float32)
            moved = np.where(best[:, None] > 0.3, to_object, 0) + noise[:, :4]
            every.append((10 * best - 5 + 5 * noise[:, 4], moved))
        for out, part in zip((logits, deltas), zip(*every, strict=True), strict=True):
            out.append(jnp.asarray(np.stack(part), jnp.float32))
    return logits, deltas


def stages(config: ConfigDict, size: tuple[int, int], batch: int, seed: int) -> dict[str, tuple]:
    """A function and its arguments by name."""
    model, rng = methods.build(config), np.random.default_rng(seed)
    levels, rpn, heads = pyramid(size, batch), model.rpn, model.roi_heads
    outputs = rpn_outputs(rng, rpn, levels)
    counts = [min(rpn.pre_nms[1], x.shape[1]) for x in outputs[0]]
    rois = jax.jit(lambda *x: rpn.propose(*x, levels, train=False))(*outputs)

    def top_k(logits):
        return [jax.lax.top_k(x, k)[1] for x, k in zip(logits, counts, strict=True)]

    def detections(scores, deltas, boxes, valid):
        proposals = RoIs(boxes, valid, valid)
        pairs = roi_heads.best_pairs(
            scores, deltas, proposals, levels.image_size, heads.task.coder, heads.test
        )
        found = roi_heads.suppress(pairs, heads.test)
        return found.boxes, found.scores

    shape = (*rois.valid.shape, config.model.num_classes)
    scores = jax.nn.softmax(jnp.asarray(rng.normal(0, 4, shape), jnp.float32))
    moved = jnp.asarray(rng.normal(0, 0.5, (*shape, 4)), jnp.float32)
    return {
        "proposals": (lambda *x: rpn.propose(*x, levels, train=False).boxes, outputs),
        "proposals in training": (lambda *x: rpn.propose(*x, levels, train=True).boxes, outputs),
        "top-k": (top_k, outputs[:1]),
        "detections": (detections, (scores, moved, rois.boxes, rois.valid)),
    }


def contestant(function: Callable, arguments: Any) -> Contestant:
    arrays = jax.device_put(arguments)
    program = jax.jit(function).lower(*arrays).compile()
    first = jax.tree.leaves(program(*arrays))[0]
    return Contestant(
        lambda: program(*arrays), jax.block_until_ready, lambda: float(first.astype(float).sum())
    )


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Not understood: {' '.join(argv[1:])}")
    values = flags.FLAGS
    size, batch = tuple(map(int, values.size)), values.batch_size
    config = detector.prepared(
        models.METHODS[models.BASELINE]("r50"), size=size, batch=batch, dtype=values.dtype
    )
    contestants = {}
    if values.whole:
        made = scene.make(batch, size, config.model.num_classes, values.seed)
        contestants["whole detection"] = detector.detection(config, made)
    for name, (function, arguments) in stages(config, size, batch, values.seed).items():
        contestants[name] = contestant(function, arguments)
    result = {"benchmark": "selection", **worker.described(), "size": size, "batch_size": batch}
    rows = contest.take_turns(contestants, repeats=values.repeats, least=0.05)
    print("| stage | ms | % of the first |\n|---|---:|---:|")
    for name, row in rows.items():
        if "seconds" not in row:
            print(f"| {name} | {row['error']} | |")
            continue
        print(f"| {name} | {row['seconds'] * 1e3:.2f} | {100 * row['ratio']:.2f} |")
    if values.json:
        context.write(values.json, result | {"rows": rows, "load_after": context.load()})


if __name__ == "__main__":
    define_flags()
    app.run(main)
