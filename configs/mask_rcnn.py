"""Mask R-CNN with FPN: Detectron2's R50-FPN recipe (box 38.6 / mask 35.2 AP there: 1x, ImageNet weights).

  python train.py --config=configs/mask_rcnn.py:root=/data/mine --workdir=runs/mine
  python train.py --config=configs/mask_rcnn.py:r50,1x,coco,root=/data/coco --workdir=runs/r50 --config.init_from=...

Arguments, each optional: `r18|r50|r101`; schedule `1x|2x|3x`; data `own|coco`; `root=DIR`, where the images and the
annotations are; `pretrained`; `runlocal`, a few steps of a tiny model on whatever machine this is.

`own` (what `root=DIR` alone means) is a folder of yours in COCO format: DIR/train, DIR/val (images),
DIR/annotations/instances_train.json and instances_val.json, and test likewise if there is one. Classes come from the
JSON. It trains from nothing, with group norm, for a number of steps that you should fit to your data:
--config.train.steps=... With `pretrained` it keeps the frozen norms and layers of `coco`, for --config.init_from.

`coco` is for pretrained weights: its norms and first stages are frozen. Where it differs from Detectron2: RoIAlign
takes 2 x 2 samples a bin instead of an adaptive number; pixels are normalised as torchvision's weights want them (RGB,
mean and deviation of ImageNet) and the stride of a bottleneck is in its 3x3 convolution, both settings; an object that
no anchor touches makes no anchor positive; at most `model.test.candidates` (box, class) pairs enter the suppression.
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
        data=("auto", "own", "coco"),
        root="",
        pretrained=False,
        runlocal=False,
    )
    config = common.base()
    config.model.backbone.depth = int(arg.backbone[1:])
    config.train.steps, config.optim.milestones = _SCHEDULES[arg.schedule]
    config.data.root = arg.root
    own = arg.data == "own" or (arg.data == "auto" and arg.root)
    if own:
        common.own_data(config)
    else:
        config.model.num_classes = 80
    if own and not arg.pretrained:
        common.from_scratch(config)
    if arg.runlocal:
        common.run_local(config)
    return config
