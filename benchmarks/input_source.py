"""Which images the benchmarks of the input read: a folder with a COCO JSON file, or a prepared data set."""

from __future__ import annotations

import os

from absl import app, flags
from ml_collections import ConfigDict

from configs import common
from jaxseg.data import sources

_IMAGES = flags.DEFINE_string("images", None, "Folder of images.")
_ANNOTATIONS = flags.DEFINE_string("annotations", None, "COCO JSON file of the images.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Instead: where jaxseg.data.prepare wrote.")
_NAME = flags.DEFINE_string("name", "own", "Of the data set in --data_dir.")
_SIZE = flags.DEFINE_list("size", ["512", "512"], "Height and width in pixels, or one for both.")
_BATCH = flags.DEFINE_integer("batch_size", 16, "Images in a batch.", lower_bound=1)
FLAGS = (_SIZE, _BATCH)
flags.register_validator(
    "size",
    lambda v: 1 <= len(v) <= 2 and all(x.isdigit() and int(x) > 0 and int(x) % 32 == 0 for x in v),
    message="allowed are HEIGHT,WIDTH or one number, multiples of 32",
)
flags.register_multi_flags_validator(
    ["images", "annotations", "data_dir"],
    lambda v: (bool(v["images"]) and bool(v["annotations"])) != bool(v["data_dir"]),
    message="give --images and --annotations, or --data_dir",
)


def config(workers: int) -> ConfigDict:
    """That the flags ask for."""
    made = common.base()
    made.data.root = os.getcwd()
    if _DATA_DIR.value:
        made.data.source, made.data.root = "tfds", os.path.abspath(_DATA_DIR.value)
        made.data.tfds.name = _NAME.value
    else:
        made.data.train.images = os.path.abspath(_IMAGES.value)
        made.data.train.annotations = os.path.abspath(_ANNOTATIONS.value)
    sides = [int(side) for side in _SIZE.value]
    short, long = min(sides), max(sides)
    made.data.keep_empty = True
    made.data.buckets = tuple(sorted({(short, long), (long, short)}))
    made.data.resize.short, made.data.resize.max = (short,), long
    made.data.eval_resize.short, made.data.eval_resize.max = short, long
    made.data.workers = workers
    made.train.batch_size = _BATCH.value
    return made


def opened(made: ConfigDict) -> sources.Source:
    """The images of a config; what cannot be opened ends the benchmark without a traceback."""
    try:
        return sources.open_source(made.data, "train")
    except (ValueError, OSError, ImportError) as error:
        raise app.UsageError(str(error)) from error


def described() -> dict[str, object]:
    """For the result: which kind of source, and the settings; no paths."""
    kind = "tfds" if _DATA_DIR.value else "coco_json"
    return {"source": kind, **{flag.name: flag.value for flag in FLAGS}}
