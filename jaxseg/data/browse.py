"""Shows images with their targets exactly as training sees them.

    python -m jaxseg.data.browse --config=configs/demo.py --out=DIR --num=16 --split=train

Writes one picture per image (padded, resized, flipped; masks unpacked from their crops, boxes, class names; crowds
as boxes of the name crowd, the border of the unpadded image in grey) and prints the classes with their counts and
what was skipped.
"""

from __future__ import annotations

import collections
import os
from typing import Any

import cv2
import numpy as np
from absl import flags
from jaxtyping import UInt8
from ml_collections import config_flags

from jaxseg import cli, visualization
from jaxseg.data import crops, pipeline, settings, sources


def paste(
    mask: UInt8[np.ndarray, "S S"], box: np.ndarray, height: int, width: int
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Puts a mask crop back into an image: the window it covers, and which of its pixels are set."""
    x0, y0, x1, y1 = map(float, box)
    columns = slice(max(int(np.floor(x0)), 0), min(int(np.ceil(x1)), width))
    rows = slice(max(int(np.floor(y0)), 0), min(int(np.ceil(y1)), height))
    # A pixel's centre is at +0.5, in the image as in the crop.
    x = (np.arange(columns.start, columns.stop) + 0.5 - x0) / (x1 - x0) * mask.shape[1] - 0.5
    y = (np.arange(rows.start, rows.stop) + 0.5 - y0) / (y1 - y0) * mask.shape[0] - 0.5
    grid = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    values = cv2.remap(mask.astype(np.float32), *grid, cv2.INTER_LINEAR)
    return (rows, columns), values >= 0.5


def draw(batch: Any, slot: int, names: tuple[str, ...]) -> UInt8[np.ndarray, "H W 3"]:
    """The picture of one entry of a training batch; a small one is enlarged."""
    image, targets = np.rint(batch.images[slot]).astype(np.uint8), batch.targets
    height, width = map(int, batch.image_size[slot])
    cv2.rectangle(image, (0, 0), (width - 1, height - 1), (128, 128, 128), 1)
    objects = np.flatnonzero(targets.valid[slot])
    crowds = np.flatnonzero(targets.crowd_valid[slot])
    masks = np.zeros((len(objects) + len(crowds), *image.shape[:2]), bool)  # none for crowds
    for mask, i in zip(masks, objects, strict=False):
        crop, box = crops.unpack(targets.masks[slot, i]), targets.boxes[slot, i]
        window, inside = paste(crop, box, *mask.shape)
        mask[window] = inside
    instances = visualization.Instances(
        np.concatenate((targets.boxes[slot, objects], targets.crowd_boxes[slot, crowds])),
        np.concatenate((targets.classes[slot, objects], np.full(len(crowds), len(names)))),
        masks=masks,
    )
    return visualization.draw(image, instances, (*names, "crowd") if len(crowds) else names)


def summary(source: sources.Source, split: str) -> str:
    """Images, objects and problems of a source, with a table of its classes."""
    counts: collections.Counter[int] = collections.Counter()
    crowds = 0
    for index in range(len(source)):
        for item in source.instances(index):
            crowds += item.crowd
            counts[item.class_index] += not item.crowd
    empty = sum(not info.num_objects for info in source.infos)
    lines = [
        f"split {split}: {len(source)} images ({empty} without objects), {counts.total()} objects, {crowds} crowds",
        f"without a file: {sum(info.missing for info in source.infos)} images",
        f"skipped: {source.problems.summary() or 'nothing'}",
        f"{'class':>24} objects",
    ]
    for index, category in enumerate(source.categories):
        lines.append(f"{category.name:>24} {counts[index]}")
    return "\n".join(lines)


def browse(config: Any, out: str, num: int, split: str) -> None:
    """Writes `num` pictures of training batches into the folder `out` and prints a summary."""
    settings.check(config.data)
    source = sources.open_source(config.data, split)
    print(summary(source, split))
    os.makedirs(out, exist_ok=True)
    names = tuple(category.name for category in source.categories)
    written = 0
    steps = -(-num // config.train.batch_size)
    with pipeline.train_batches(config, source, first_step=0, last_step=steps) as batches:
        for host in batches:
            for slot in range(min(num - written, len(host.image_ids))):
                path = os.path.join(out, f"{written:03d}_{host.image_ids[slot]}.png")
                visualization.write_image(path, draw(host.batch, slot, names))
                written += 1
        if batches.problems.total():
            print(f"unreadable: {batches.problems.summary()}")
    print(f"{written} pictures in {out}")


def main(_: list[str]) -> None:
    flag = flags.FLAGS
    browse(flag.config, flag.out, flag.num, flag.split)


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "A file of configs/.")
    flags.DEFINE_string("out", None, "Folder for the pictures.")
    flags.DEFINE_integer("num", 16, "How many pictures.", lower_bound=1)
    flags.DEFINE_string("split", "train", "A split of config.data.")
    flags.mark_flags_as_required(["config", "out"])
    cli.run(main)
