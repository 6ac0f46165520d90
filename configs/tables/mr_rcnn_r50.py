"""Mask Refining R-CNN at full size on a data set of some hundred images, for one GPU.

  python -m jaxseg.reproduce mr_rcnn_r50 --workdir=runs/facades_r50 --data=root=DIR --set=model.dtype=bfloat16

ResNet-50 from nothing, with group norm, on images of 512 pixels: 2,000 steps of 16 images, then 600 more from that
checkpoint for three models: itself, with the refining module on plain RoIAlign, and with it on Shape-aware RoIAlign.
"""

from configs.tables import huddled
from configs.tables.table import Table

_IMAGES = {
    "data.buckets": ((512, 512),),
    "data.resize.short": (416, 448, 480, 512),
    "data.resize.max": 512,
    "data.eval_resize.short": 512,
    "data.eval_resize.max": 512,
}
BASE = {
    **_IMAGES,
    "optim.milestones": (1400, 1800),
    "optim.warmup_steps": 200,
    "train.steps": 2000,
    "train.eval_every": 500,
    "train.save_every": 500,
}
MORE = {
    **_IMAGES,
    "optim.milestones": (400,),
    "optim.warmup_steps": 30,
    "train.steps": 600,
    "train.eval_every": 300,
    "train.save_every": 300,
}


def get_table() -> Table:
    return Table(
        title="Mask Refining R-CNN, ResNet-50, on a small data set",
        source="The settings of this project; the paper has no such table.",
        baseline="continued",
        columns=("box/AP", "box/AP50", "box/AP75", "mask/AP", "mask/AP50", "mask/AP75"),
        rows=huddled.rows("r50", BASE, MORE),
    )
