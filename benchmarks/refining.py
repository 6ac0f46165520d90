"""What refining costs at test time: MR R-CNN with 100, 300 and 1000 refined proposals beside plain Mask R-CNN.

    python -m benchmarks.refining                                              # a CPU: one image of 512 x 512
    python -m benchmarks.refining --size=800,1344 --batch_size=8 --dtype=bfloat16 --json=docs/benchmarks/refining.json

Random weights and pixels: shapes are static, and what is found changes little about the time (the suppression takes as
many rounds as it keeps boxes). The models take turns, and ratios are those of the medians within one run. Memory is
what XLA plans for temporaries.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import context, options, timing, worker
from configs import backbones, mr_rcnn
from jaxseg import methods
from jaxseg.structures import Batch

_BACKBONE = flags.DEFINE_enum("backbone", "r50", backbones.NAMES, "The backbone.")
_SIZE = flags.DEFINE_list("size", ["512", "512"], "Height and width of the canvas, in pixels.")
_BATCH = flags.DEFINE_integer("batch_size", 1, "Images a call.", lower_bound=1)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Compute dtype.")
_TOPK = flags.DEFINE_list("topk", ["100", "300", "1000"], "Values of model.test.refine_topk.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timings of each model.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Also write the result to this file.")
options.writable("json")
flags.register_multi_flags_validator(
    ["size", "topk"],
    lambda v: (
        len(v["size"]) == 2 and all(x.isdigit() and int(x) > 0 for x in v["size"] + v["topk"])
    ),
    message="--size takes HEIGHT,WIDTH and --topk whole numbers above 0",
)


def models() -> dict[str, Any]:
    """The configs that are compared, by their names."""
    configs = {"mask_rcnn": mr_rcnn.get_config(f"{_BACKBONE.value},table3.base")}
    for topk in _TOPK.value:
        configs[f"refine_topk={topk}"] = mr_rcnn.get_config(_BACKBONE.value)
        configs[f"refine_topk={topk}"].model.test.refine_topk = int(topk)
    for config in configs.values():
        config.model.dtype = _DTYPE.value
    return configs


def compiled(config: Any) -> tuple[Callable[[], Any], float]:
    """(a call of the compiled model on an image, MiB of temporaries)."""
    model = methods.build(config)
    height, width = map(int, _SIZE.value)
    rng, count = np.random.default_rng(0), _BATCH.value
    batch = Batch(
        images=jnp.asarray(rng.integers(0, 256, (count, height, width, 3)), jnp.uint8),
        image_size=jnp.full((count, 2), jnp.array([height, width], jnp.float32)),
        valid=jnp.ones(count, bool),
    )
    init = jax.jit(lambda key: model.init(key, batch, method="detect"))
    variables = init(jax.random.key(0, impl="rbg"))
    detect = (
        jax.jit(lambda v, b: model.apply(v, b, method="detect")).lower(variables, batch).compile()
    )
    memory = detect.memory_analysis()
    return lambda: detect(variables, batch), memory.temp_size_in_bytes / 2**20


def measure() -> list[dict[str, Any]]:
    """A row for each model."""
    calls, rows = {}, {}
    for name, config in models().items():
        run, memory = compiled(config)
        calls[name] = timing.timed(run, jax.block_until_ready, least=0.5)
        rows[name] = {"model": name, "temporaries_mib": round(memory, 1)}
        print(f"{name} is compiled.", flush=True)
    seconds = {name: [] for name in calls}
    for _ in range(_REPEATS.value):
        for name, call in calls.items():
            seconds[name].append(timing.seconds_a_call(call))
    plain = statistics.median(seconds["mask_rcnn"])
    for name, row in rows.items():
        median = statistics.median(seconds[name])
        row["seconds"] = round(median, 4)
        row["spread"] = [round(min(seconds[name]), 4), round(max(seconds[name]), 4)]
        row["ratio"] = round(median / plain, 2)
    return list(rows.values())


def main(_: list[str]) -> None:
    result = {
        "benchmark": "refining",
        **worker.described(),
        **{flag.name: flag.value for flag in (_BACKBONE, _SIZE, _BATCH, _DTYPE, _REPEATS)},
        "rows": measure(),
        "load_after": context.load(),
    }
    print(context.headline(result), end="\n\n")
    print("| model | seconds a call | of Mask R-CNN | temporaries, MiB |\n|---|---:|---:|---:|")
    for row in result["rows"]:
        print(f"| {row['model']} | {row['seconds']} | {row['ratio']} | {row['temporaries_mib']} |")
    if _JSON.value:
        context.write(_JSON.value, result)


if __name__ == "__main__":
    app.run(main)
