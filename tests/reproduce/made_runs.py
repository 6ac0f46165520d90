"""Work directories as runs leave them, with made-up numbers; nothing is trained."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

from configs import demo
from jaxseg.data import sources
from jaxseg.training import workdir
from jaxseg.training.metrics import FILE as LOG
from jaxseg.training.validation import FINISHED

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def config(**overrides: Any):
    """A tiny config on drawn shapes; overrides like `mask_head=...` are keys of the model."""
    made = demo.get_config("runlocal")
    made.model.num_classes = 6
    made.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return made


def job(folder: pathlib.Path, row: str, seed: int, **fields: Any) -> pathlib.Path:
    """job.json of a run; by default of a finished training."""
    place = folder / "runs" / row / f"seed{seed}"
    place.mkdir(parents=True, exist_ok=True)
    command = ["python", "train.py", "--config=configs/demo.py:runlocal", f"--workdir={place}"]
    noted = dict(command=command, status="finished", error="", seconds=60.0 + seed, starts=1)
    noted |= dict(peak_rss_gib=1.5, finished="2026-01-02T03:04:05")
    (place / "job.json").write_text(json.dumps(noted | fields))
    return place


def trained(
    folder: pathlib.Path, row: str, seed: int, mask: float, box: float, **overrides: Any
) -> pathlib.Path:
    """A finished training whose mask AP and box AP are given; the other numbers follow from them."""
    place = job(folder, row, seed)
    made = config(seed=seed, **overrides)
    workdir.save_run(place, made, source().categories)
    (place / FINISHED).write_text(json.dumps(dict(step=10, **final(mask, box))))
    (place / "results.json").write_text(detections())
    write_log(place, mask, box)
    return place


def evaluated(folder: pathlib.Path, row: str, seed: int, mask: float, box: float) -> pathlib.Path:
    """What eval.py leaves in its --out."""
    place = job(folder, row, seed, command=["python", "eval.py", f"--out={folder}/runs/{row}"])
    (place / "metrics.json").write_text(json.dumps(final(mask, box)))
    (place / "results.json").write_text(detections())
    return place


def final(mask: float, box: float) -> dict[str, Any]:
    summary = {"mask": summary_of(mask), "box": summary_of(box)}
    return {
        "split": "val",
        "images": len(source().infos),
        "detections": 8,
        "seconds": 1.25,
        "skipped": {},
        "objects": {"disc": 5, "square": 3},
        **{kind: {"summary": numbers, "per_class": {}} for kind, numbers in summary.items()},
    }


def summary_of(ap: float) -> dict[str, float]:
    """Large objects are not defined."""
    return dict(zip(NAMES, (ap, ap + 0.2, ap - 0.1, ap - 0.15, ap + 0.1, -1.0), strict=True))


@functools.cache
def source() -> Any:
    """The drawn scenes that the runs are evaluated on."""
    return sources.open_source(config().data, "val")


@functools.cache
def detections() -> str:
    """results.json: the objects of every image as if they had been found, with falling scores."""
    truth = source().coco()["annotations"]
    kept = ("image_id", "category_id", "bbox", "segmentation")
    found = [
        {key: a[key] for key in kept} | {"score": 0.9 - 0.5 * i / len(truth)}
        for i, a in enumerate(truth)
    ]
    return json.dumps(found)


def write_log(place: pathlib.Path, mask: float, box: float, steps: int = 10) -> None:
    lines = [
        dict(step=s, split="train", loss=4 / s, lr=0.01, images_per_second=20.0 + s, memory_gib=2.5)
        for s in range(2, steps + 1, 2)
    ]
    ends = ((steps // 2, 0.5), (steps, 1.0))
    lines += [{"step": s, "split": "val", "mask/AP": mask * f, "box/AP": box * f} for s, f in ends]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (place / LOG).write_text(text + '{"step": 12, "split": "tr')  # half a line, as after a kill
