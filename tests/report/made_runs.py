"""Runs as they lie on a disk, made without training: a COCO data set, a log, results and what they measure."""

from __future__ import annotations

import json
import pathlib

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from configs import common
from jaxseg.data import sources
from jaxseg.evaluation import measure
from jaxseg.evaluation.report import Report
from jaxseg.training import validation, workdir

SIZE = (60, 80)


def rle(x, y, w, h):
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    encoded = mask_utils.encode(mask)
    return {"size": list(SIZE), "counts": encoded["counts"].decode()}


def write_data(root, names, images=6, objects=3, annotated=True):
    """A data set of rectangles: object j of image i is of class (i * objects + j) modulo the classes."""
    rng = np.random.default_rng(0)
    folder = pathlib.Path(root) / "val"
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "annotations").mkdir(exist_ok=True)
    dataset = dict(
        images=[],
        categories=[dict(id=10 + i, name=name) for i, name in enumerate(names)],
    )
    annotations = []
    for i in range(images):
        name = f"{i:03d}.png"
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (*SIZE, 3), np.uint8))
        dataset["images"].append(dict(id=i + 1, file_name=name, height=SIZE[0], width=SIZE[1]))
        for j in range(objects if i else 0):  # one image is empty
            box = [2 + 25 * j, 4 + j, 20, 30 + 5 * j]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=i + 1,
                    category_id=10 + (i * objects + j) % len(names),
                    bbox=box,
                    area=box[2] * box[3],
                    iscrowd=0,
                    segmentation=rle(*box),
                )
            )
    if annotated:
        dataset["annotations"] = annotations
    path = folder.parent / "annotations" / "instances_val.json"
    path.write_text(json.dumps(dataset))
    return dataset | {"annotations": annotations}


def detections(dataset, kept=3, shift=2, wrong=2):
    """Every `kept`-th object is missed, every `wrong`-th found is of the next class, all a little beside."""
    ids = [c["id"] for c in dataset["categories"]]
    found = []
    for k, entry in enumerate(dataset["annotations"]):
        if kept and k % kept == 0:
            continue
        x, y, w, h = entry["bbox"]
        index = ids.index(entry["category_id"]) + bool(wrong and k % wrong == 0)
        found.append(
            dict(
                image_id=entry["image_id"],
                category_id=ids[index % len(ids)],
                score=round(0.95 - 0.5 * k / len(dataset["annotations"]), 4),
                bbox=[x + shift, y, w, h],
                segmentation=rle(x + shift, y, w, h),
            )
        )
    return found


def make_config(root, steps=20):
    config = common.base()
    common.own_data(config)
    config.data.root = str(root)
    config.train.steps = steps
    return config


def write_log(folder, steps=20, torn=False):
    lines = []
    for step in range(2, steps + 1, 2):
        numbers = dict(loss=3 / step, mask=1 / step, rpn_box=0.1, lr=0.01, grad_norm=2.0)
        speed = dict(images_per_second=8.0, data_wait=0.1, eta=1.0)
        lines.append(dict(step=step, split="train", **numbers, **speed))
        if step % 10 == 0:
            lines.append({"step": step, "split": "val", "mask/AP": 0.3, "box/AP": 0.4})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "log.jsonl").write_text(text + ('{"step": 21, "spl' if torn else ""))


def write_run(folder, root, dataset, results=None, *, steps=20, logged=20, torn=False, **changes):
    """A work directory; with `results` the run is finished."""
    folder.mkdir(parents=True)
    config = make_config(root, steps)
    config.update_from_flattened_dict(changes)
    categories = [sources.Category(c["id"], c["name"]) for c in dataset["categories"]]
    workdir.save_run(folder, config, categories)
    write_log(folder, logged, torn)
    if results is not None:
        made = Report("val", len(dataset["images"]), 1.5, results=results)
        made.measure(dataset, measure.chosen(measure.settings(config.eval), dataset))
        made.save(folder)
        workdir.write_json(folder / validation.FINISHED, {"step": steps, **made.to_dict()})
    return folder
