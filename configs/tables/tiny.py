"""Every kind of row, on drawn scenes: to see that tables run, in a few minutes on two CPU cores, with no download.

  python -m jaxseg.reproduce tiny --workdir=runs/tiny

Two seeds of a baseline, of a model with a change, of a run that goes on from the baseline's checkpoint, and of the
baseline's checkpoint evaluated in another way. A model sees 120 steps of 2 scenes with one or two objects: its AP is
just above nothing, and what the differences show is how little two seeds of so short runs can tell.
"""

from configs.tables.table import Row, Table

CONFIG = "configs/mask_rcnn.py:r50"
SHORT = {
    "data.shapes.train": 64,
    "data.shapes.val": 16,
    "data.shapes.objects": (1, 2),
    "eval.max_images": 0,
    "optim.lr": 0.04,
    "optim.base_batch_size": 2,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 20,
    "train.steps": 120,
    "train.eval_every": 60,
    "train.save_every": 60,
    "train.log_every": 10,
}


def get_table() -> Table:
    return Table(
        title="A tiny table",
        baseline="plain",
        data="shapes",
        scale="tiny",
        seeds=2,
        notes="Runs of seconds, to try the program itself; the numbers say nothing about the methods.",
        rows=(
            Row(name="plain", config=CONFIG, label="Mask R-CNN", overrides=SHORT),
            Row(
                name="deep_mask_head",
                config=CONFIG,
                label="Mask head of four convolutions",
                overrides={**SHORT, "model.mask_head.convs": 4},
            ),
            Row(
                name="longer",
                config=CONFIG,
                label="Another 60 steps",
                overrides={**SHORT, "optim.lr": 0.02, "train.steps": 60},
                start_from="plain",
            ),
            Row(
                name="strict_nms",
                label="Suppression at IoU 0.3",
                overrides={"model.test.nms_iou": 0.3},
                evaluate="plain",
            ),
        ),
    )
