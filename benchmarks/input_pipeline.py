"""How many images a second one core prepares: decode, resize, flip, mask crops, pad.

    python -m benchmarks.input_pipeline --images=DIR/train --annotations=DIR/annotations/instances_train.json

Images are resized until a side fits, and padded; of `--size=800,1344` those that are higher than wide come turned, in
batches of their own, as in training. One grain worker (or `--workers`) prepares batches while this process only
receives them; `--workers=0` measures in this process. The first batch, with the start of the worker, is timed apart.
`--data_dir=DIR --name=NAME` reads a prepared data set instead.
"""

from __future__ import annotations

import resource
import time

from absl import app, flags
from ml_collections import ConfigDict

from benchmarks import context, input_source, options, processes
from jaxseg.data import pipeline

_BATCHES = flags.DEFINE_integer("batches", 30, "Timed batches.")
_WORKERS = flags.DEFINE_integer("workers", 1, "Grain worker processes; 0: in this process.")
_JSON = flags.DEFINE_string("json", None, "Also write the result to this file.")
options.writable("json")


def measure(config: ConfigDict, count: int) -> dict[str, float]:
    """Times `count` batches; objects are those of the targets.

    Images by seconds that a core worked, of this process and the workers, are what another load of the machine hardly
    changes.
    """
    source = input_source.opened(config)
    begin = time.perf_counter()
    with pipeline.train_batches(config, source, first_step=0, last_step=count + 4) as batches:
        next(batches)
        started = time.perf_counter()
        next(batches), next(batches), next(batches)  # what was prepared ahead while starting
        timed, used = time.perf_counter(), processes.cpu_seconds()
        objects = sum(int(next(batches).batch.targets.valid.sum()) for _ in range(count))
        seconds, own = time.perf_counter() - timed, processes.cpu_seconds() - used
    images = count * config.train.batch_size
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "images_per_second": images / seconds,
        "images_per_second_per_worker": images / seconds / max(1, config.data.workers),
        "images_per_cpu_second": images / own,
        "objects_per_image": objects / images,
        "seconds_to_first_batch": started - begin,
        "worker_peak_mib": children / 1024,
    }


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Not understood: {' '.join(argv[1:])}")
    machine = context.machine("numpy", "opencv-python-headless", "pycocotools", "grain")
    settings = input_source.described() | {f.name: f.value for f in (_BATCHES, _WORKERS)}
    measured = measure(input_source.config(_WORKERS.value), _BATCHES.value)
    result = {"benchmark": "input_pipeline", **machine, **settings, **measured}
    result["load_after"] = context.load()
    print(context.headline(result), end="\n\n")
    print("| | |\n|---|---:|")
    for key, value in (settings | measured).items():
        print(f"| {key} | {value:.1f} |" if isinstance(value, float) else f"| {key} | {value} |")
    if _JSON.value:
        context.write(_JSON.value, result)


if __name__ == "__main__":
    app.run(main)
