"""How the cost grows: the training step and detection over images a call, and over RoIs an image.

    python -m benchmarks.scaling --json=FILE --plot=FILE.png                      # a CPU: a small model, 128 x 128
    python -m benchmarks.scaling --nosmall --backbone=r50 --size=800,1344 --dtype=bfloat16 --batch_size=4    # a GPU

Four sweeps. `train_images` and `detect_images` vary the images of a call (`--images`). `train_rois` varies the RoIs
that the box head learns from, of an image (the mask head gets a quarter of them), and `detect_rois` the proposals that
the box head sees; both have `--batch_size` images a call and the same candidates in the RPN at every point. Shapes are
static: padded RoIs cost as much as others, so what is drawn does not matter.

A line is laid through the fastest timings of each sweep, by least squares of the relative departures; `departure` is
the largest of them. A point that runs out of memory, or kills its process, has a row that says so, and the rest is
measured.
"""

from __future__ import annotations

import gc
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict

from benchmarks import (
    contest,
    contests,
    context,
    detector,
    models,
    options,
    scaling_table,
    worker,
)
from benchmarks.journal import Journal
from configs import common

models.define_flags(size=(128, 128), batch_size=1, peer=False)
_IMAGES = flags.DEFINE_list("images", ["1", "2", "4", "8", "16", "32"], "Images a call.")
_ROIS = flags.DEFINE_list("rois", ["64", "128", "256", "512", "1024", "2048"], "RoIs an image.")
_SMALL = flags.DEFINE_bool("small", True, "With the widths of configs/small.py, for a CPU.")
_PLOT = flags.DEFINE_string("plot", None, "Also draw it, into this .png file.")
options.writable("plot")
options.counts("images")
options.counts("rois")
_CHOSEN = flags.DEFINE_list(
    "sweeps", list(scaling_table.SWEEPS), "Which of " + ", ".join(scaling_table.SWEEPS) + "."
)
options.only_of("sweeps", scaling_table.SWEEPS)
_MAKE = {"train": detector.training, "detect": detector.detection}


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Not understood: {' '.join(argv[1:])}")
    if flags.FLAGS.journal:
        work(Journal(flags.FLAGS.journal))
        return
    result = scaling_table.to_result(worker.supervised("scaling"))
    print(scaling_table.table(result))
    if flags.FLAGS.json:
        context.write(flags.FLAGS.json, result)
    if _PLOT.value:
        scaling_table.draw(_PLOT.value, result)


def work(journal: Journal) -> None:
    """Measures what the journal lacks: a row "METHOD SWEEP COUNT" for each point, large ones last."""
    if "context" not in journal.rows:
        journal.end("context", worker.described() | models.flag_values() | {"small": _SMALL.value})
    for method in flags.FLAGS.methods:
        for name in _CHOSEN.value:
            for count in _counts(scaling_table.SWEEPS[name].axis):
                key = f"{method} {name} {count}"
                if key not in journal.rows:
                    journal.begin(key)
                    journal.end(key, _row(method, scaling_table.SWEEPS[name], count))
                    gc.collect()
    journal.finish()


def _counts(axis: str) -> list[int]:
    return sorted(map(int, (_IMAGES if axis == "images" else _ROIS).value))


def _row(method: str, sweep: scaling_table.Sweep, count: int) -> dict[str, Any]:
    values = flags.FLAGS
    try:
        config = config_of(method, sweep, count)
        made = _MAKE[sweep.call](config, contests.made_scene(config))
        rows = contest.take_turns({"": made}, repeats=values.repeats, least=values.least_seconds)
    except Exception as error:  # out of memory, for one
        return {"error": contest.line(error)}
    return rows[""]


def config_of(method: str, sweep: scaling_table.Sweep, count: int) -> ConfigDict:
    """The config of one point."""
    values = flags.FLAGS
    config = models.METHODS[method](values.backbone)
    if _SMALL.value:
        common.small(config)
    of_sweep = of_rois(sweep.call, count) if sweep.axis == "rois" else {}
    return detector.prepared(
        config,
        size=models.image_size(),
        batch=count if sweep.axis == "images" else values.batch_size,
        dtype=values.dtype,
        **(models.changes() | of_sweep),
    )


def of_rois(call: str, count: int) -> dict[str, Any]:
    """The changes for `count` RoIs an image: candidates of the RPN are as many for all counts of the flag."""
    most = max(_counts("rois"))
    after = most if call == "train" else count
    changes = {"model__rpn__pre_nms": (most, most), "model__rpn__post_nms": (most, after)}
    return changes | ({"model__criterion__roi__samples": count} if call == "train" else {})


if __name__ == "__main__":
    app.run(main)
