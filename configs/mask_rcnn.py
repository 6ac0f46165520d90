"""Mask R-CNN with FPN, Detectron2's R50-FPN recipe (box 38.6 / mask 35.2 AP there; 1x, ImageNet weights).

  python train.py --config=configs/mask_rcnn.py:r50,1x,root=/data/coco --workdir=runs/r50
  python train.py --config=configs/mask_rcnn.py:own,root=/data/mine --workdir=runs/mine

Arguments, each optional: `r18|r50|r101`; schedule `1x|2x|3x`; data `coco|own`; `root=DIR`, where the images and the
annotations are; `runlocal`, a few steps of a tiny model on whatever machine this is.

`own` is a folder of yours in COCO format: DIR/train, DIR/val (images), DIR/annotations/instances_train.json and
instances_val.json. Classes come from the JSON. It trains from nothing, with group norm, for a number of steps that you
should fit to your data: --config.train.steps=...
"""

from configs import common

_SCHEDULES = {  # steps, milestones at 16 images a step
    "1x": (90_000, (60_000, 80_000)),
    "2x": (180_000, (120_000, 160_000)),
    "3x": (270_000, (210_000, 250_000)),
}


def get_config(arg=None):
    arg = common.parse_arg(
        arg,
        backbone=("r50", "r18", "r101"),
        schedule=("1x", "2x", "3x"),
        data=("coco", "own"),
        root="",
        runlocal=False,
    )
    config = common.base()
    config.model.backbone.depth = int(arg.backbone[1:])
    config.train.steps, config.optim.milestones = _SCHEDULES[arg.schedule]
    config.data.root = arg.root
    if arg.data == "coco":
        config.model.num_classes = 80
    else:
        common.own_data(config)
        common.from_scratch(config)
    if arg.runlocal:
        common.run_local(config)
    return config
