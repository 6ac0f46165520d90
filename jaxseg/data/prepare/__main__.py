"""Prepares a data set for data.source="tfds": a few large files instead of many small ones, opened at once.

    python -m jaxseg.data.prepare coco --images=COCO --annotations=COCO/annotations --data_dir=DIR
    python -m jaxseg.data.prepare coco --images=COCO --annotations=COCO/annotations --data_dir=DIR --splits=test-dev
    python -m jaxseg.data.prepare lvis --images=COCO --annotations=LVIS --data_dir=DIR
    python -m jaxseg.data.prepare cityscapes --images=CS/leftImg8bit --annotations=CS/gtFine --data_dir=DIR
    python -m jaxseg.data.prepare folder --images=MINE --annotations=MINE/annotations --data_dir=DIR --name=mine

COCO's images are in COCO/train2017, val2017, test2017 and unlabeled2017. An interrupted run goes on where it was when
the same command is given again. docs/data.md tells more.
"""

from __future__ import annotations

import os

from absl import flags
from rich.console import Console

from jaxseg import cli
from jaxseg.data.prepare import catalogue, run
from jaxseg.data.prepare import options as options_lib


def main(argv: list[str]) -> None:
    flag, kind = flags.FLAGS, argv[1]
    if kind not in catalogue.KINDS:
        raise ValueError(f"Unknown data set {kind!r}: allowed are {', '.join(catalogue.KINDS)}.")
    if flag.name and kind != "folder":
        raise ValueError(f"--name={flag.name}: {kind} has the name {catalogue.KINDS[kind].name}.")
    options = options_lib.Options(
        kind=kind,
        images=os.path.expanduser(flag.images),
        annotations=os.path.expanduser(flag.annotations),
        data_dir=os.path.expanduser(flag.data_dir),
        splits=tuple(flag.splits),
        name=flag.name,
        partial=flag.partial,
        shard_mb=flag.shard_mb,
    )
    run.prepare(options, Console(highlight=False, markup=False, emoji=False))


if __name__ == "__main__":
    flags.DEFINE_string("images", None, "Folder of the images; Cityscapes: leftImg8bit.")
    flags.DEFINE_string("annotations", None, "Folder of the JSON files; Cityscapes: gtFine.")
    flags.DEFINE_string("data_dir", None, "Where to: the data set is DATA_DIR/NAME/VERSION.")
    flags.DEFINE_list("splits", [], "Splits, separated by commas; default: train,val.")
    flags.DEFINE_string("name", "", "Of folder: the name to keep it under; default: own.")
    flags.DEFINE_bool("partial", False, "Take what is there, also if images are missing.")
    flags.DEFINE_integer("shard_mb", 256, "Megabytes of images in a file.")
    flags.mark_flags_as_required(["images", "annotations", "data_dir"])
    cli.run(main, arguments=("coco|lvis|cityscapes|folder",))
