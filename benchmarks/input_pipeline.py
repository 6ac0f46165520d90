"""How many images a second one core prepares: decode, resize, flip, mask crops, pad.

    python -m benchmarks.input_pipeline --images=DIR/train --annotations=DIR/annotations/instances_train.json

Images are resized until a side fits, and padded; of `--size=800,1344` those that are higher than wide come turned, in
batches of their own, as in training. One grain worker prepares batches while this process only receives them;
`--workers=0` measures in this process. The first batch, with the start of the worker, is timed apart.
"""

from __future__ import annotations

import os
import resource
import time

from absl import app, flags
from ml_collections import ConfigDict

from benchmarks import context, options
from configs import common
from jaxseg.data import pipeline, sources

_IMAGES = flags.DEFINE_string("images", None, "Folder of images.", required=True)
_ANNOTATIONS = flags.DEFINE_string("annotations", None, "COCO JSON file.", required=True)
_SIZE = flags.DEFINE_list("size", ["512", "512"], "Height and width in pixels, or one for both.")
_BATCH = flags.DEFINE_integer("batch_size", 16, "Images in a batch.")
_BATCHES = flags.DEFINE_integer("batches", 30, "Timed batches.")
_WORKERS = flags.DEFINE_integer("workers", 1, "Grain worker processes; 0: in this process.")
_JSON = flags.DEFINE_string("json", None, "Also write the result to this file.")
options.writable("json")
flags.register_validator(
    "size",
    lambda v: 1 <= len(v) <= 2 and all(x.isdigit() and int(x) > 0 and int(x) % 32 == 0 for x in v),
    message="allowed are HEIGHT,WIDTH or one number, multiples of 32",
)


def _config() -> ConfigDict:
    config = common.base()
    sides = [int(side) for side in _SIZE.value]
    short, long = min(sides), max(sides)
    config.data.root = os.getcwd()
    config.data.train.images = os.path.abspath(_IMAGES.value)
    config.data.train.annotations = os.path.abspath(_ANNOTATIONS.value)
    config.data.keep_empty = True
    config.data.buckets = tuple(sorted({(short, long), (long, short)}))
    config.data.resize.short, config.data.resize.max = (short,), long
    config.data.eval_resize.short, config.data.eval_resize.max = short, long
    config.data.workers = _WORKERS.value
    config.train.batch_size = _BATCH.value
    return config


def measure(config: ConfigDict, count: int) -> dict[str, float]:
    """Times `count` batches; objects are those of the targets.

    Without workers also images by seconds that a core worked, which another load of the machine hardly changes.
    """
    source = sources.open_source(config.data, "train")
    begin = time.perf_counter()
    with pipeline.train_batches(config, source, first_step=0, last_step=count + 4) as batches:
        next(batches)
        started = time.perf_counter()
        next(batches), next(batches), next(batches)  # what was prepared ahead while starting
        timed, used = time.perf_counter(), time.process_time()
        objects = sum(int(next(batches).batch.targets.valid.sum()) for _ in range(count))
        seconds, own = time.perf_counter() - timed, time.process_time() - used
    images = count * config.train.batch_size
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "images_per_second": images / seconds,
        "images_per_second_per_worker": images / seconds / max(1, config.data.workers),
        **({} if config.data.workers else {"images_per_cpu_second": images / own}),
        "objects_per_image": objects / images,
        "seconds_to_first_batch": started - begin,
        "worker_peak_mib": children / 1024,
    }


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Not understood: {' '.join(argv[1:])}")
    machine = context.machine("numpy", "opencv-python-headless", "pycocotools", "grain")
    settings = {flag.name: flag.value for flag in (_SIZE, _BATCH, _BATCHES, _WORKERS)}
    measured = measure(_config(), _BATCHES.value)
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
