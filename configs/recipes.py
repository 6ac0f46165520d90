"""How the papers trained their own Mask R-CNN baselines: `configs/mask_rcnn.py:recipe=...`.

Each differs from the others in batch size, schedule, image sizes, losses and matching, and their AP by up to 0.9; a
method is compared with the baseline of its own recipe. What is set here is what the papers state, or their code
base does by default; what of it is not followed stands with each function. RoIAlign takes 2 x 2 samples a bin in
all of them (Detectron2 and MMDetection: an adaptive number; their measured difference is within noise).

A schedule is 1x, 2x or 3x of the code base; the learning rate is given at the recipe's own batch size and scales
with it. Those are schedules for COCO; `of_data` has those for LVIS and Cityscapes.
"""

from __future__ import annotations

from ml_collections import ConfigDict

COCO_IMAGES = 117_266  # of train2017 with objects; MMDetection counts epochs
# An epoch of LVIS v1 there, in which repeat factors of t = 0.001 are rounded up: 7,674 steps of 16, of the log in
# https://github.com/open-mmlab/mmdetection/issues/7439.
LVIS_IMAGES = 7_674 * 16
CITYSCAPES_IMAGES = 8 * 2_975  # MMDetection repeats its training set 8 times


def atmask(config: ConfigDict, schedule: str, backbone: str) -> None:
    """ATMask R-CNN: Detectron2's, but 12 images a step at the full learning rate, 90,000 steps.

    Its ResNet-101 starts from a trained Faster R-CNN (8 images, 50,000 steps): configs/atmask_rcnn.py does so. Here it
    is trained as the ResNet-50.
    """
    del backbone
    _steps(config, schedule, batch=12, lr=0.02, one=90_000, drops=(60_000, 80_000))


def maskplus(config: ConfigDict, schedule: str, backbone: str) -> None:
    """MaskPlus: Tensorpack's, 8 images a step; the paper's 360,000 steps are `2x`.

    Not followed: a learning rate of 0.02 for 8 images, which the paper states and Tensorpack halves, as here; an RPN
    that is trained separately, which the paper states and Tensorpack has no mode for.
    """
    del backbone
    _steps(config, schedule, batch=8, lr=0.01, one=180_000, drops=(120_000, 160_000))
    config.data.resize.short = (800,)
    config.model.rpn.post_nms = (2000, 1000)
    config.model.criterion.crowd_iof = 0.7


def mr_rcnn(config: ConfigDict, schedule: str, backbone: str) -> None:
    """Mask Refining R-CNN: maskrcnn-benchmark's 1x.

    Not followed: biases with twice the learning rate and no decay; anchors that reach over the image's edge left out of
    training; proposals counted over the images of a device instead of for each.
    """
    if backbone.startswith("x101"):
        _steps(config, schedule, batch=8, lr=0.01, one=180_000, drops=(120_000, 160_000))
    else:
        _steps(config, schedule, batch=16, lr=0.02, one=90_000, drops=(60_000, 80_000))
    config.optim.warmup_steps, config.optim.warmup_factor = 500, 1 / 3
    config.data.resize.short = (800,)
    config.model.roi_sampling.aligned = False
    config.model.criterion.rpn.smooth_l1_beta = 1 / 9
    config.model.criterion.rpn.average = "sampled"
    config.model.criterion.roi.smooth_l1_beta = 1.0
    config.model.criterion.crowd_iof = 2.0  # crowds are left out of training altogether


def brefine(config: ConfigDict, schedule: str, backbone: str) -> None:
    """BRefine: MMDetection's, 12 epochs (24 for `2x`) with 6 images a step and a learning rate of 0.0075."""
    del backbone
    epoch = COCO_IMAGES // 6
    _steps(config, schedule, batch=6, lr=0.0075, one=12 * epoch, drops=(8 * epoch, 11 * epoch))
    config.optim.warmup_steps = 500
    config.data.resize.short = (800,)
    config.model.two_sided_clamp = True
    config.model.backbone.norm = "batch_norm_eval"
    rpn, roi = config.model.criterion.rpn, config.model.criterion.roi
    rpn.low_quality, rpn.low_quality_iou = "reassign", 0.3
    roi.low_quality, roi.low_quality_iou = "reassign", 0.5
    rpn.average = "sampled"
    config.model.criterion.crowd_iof = 2.0


TABLE = {"atmask": atmask, "maskplus": maskplus, "mr_rcnn": mr_rcnn, "brefine": brefine}
CAFFE = ("atmask", "mr_rcnn")  # their ResNets start from MSRA's weights


def lvis(config: ConfigDict, schedule: str, recipe: str) -> None:
    """Detectron2's 180,000 steps of 16 images with drops at 120,000 and 160,000; for BRefine MMDetection's 12 epochs.

    What else a recipe says stays, its batch and its learning rate among them; the image sizes are 640 to 800 pixels.
    """
    batch, factor = config.train.batch_size, int(schedule[:-1])
    config.data.resize.short = (640, 672, 704, 736, 768, 800)
    if recipe == "brefine":
        epoch = factor * LVIS_IMAGES // batch
        config.train.steps, config.optim.milestones = 12 * epoch, (8 * epoch, 11 * epoch)
    else:
        steps, drops = 180_000 * 16 // batch, (120_000 * 16 // batch, 160_000 * 16 // batch)
        _set_length(config, schedule, steps, drops)
    # 12 times in 1x; its validation set is four times that of COCO.
    config.train.eval_every = 240_000 // batch


def cityscapes(config: ConfigDict, schedule: str, recipe: str) -> None:
    """MMDetection's: 8 epochs of everything eight times, a drop after 7, and 8 images at a learning rate of 0.01.

    A recipe keeps its batch and its learning rate. Detectron2's is 24,000 steps of 8 images with a drop at 18,000.
    """
    if recipe == "none":
        config.train.batch_size = config.optim.base_batch_size = 8
        config.optim.lr = 0.01
    epoch = int(schedule[:-1]) * CITYSCAPES_IMAGES // config.train.batch_size
    config.train.steps, config.optim.milestones = 8 * epoch, (7 * epoch,)
    config.train.eval_every = CITYSCAPES_IMAGES // config.train.batch_size
    config.optim.warmup_steps = 500
    if recipe == "brefine":  # of MMDetection, whose config for Cityscapes has this
        config.model.criterion.roi.smooth_l1_beta = 1.0


OF_DATA = {"lvis": lvis, "cityscapes": cityscapes}


def of_data(config: ConfigDict, data: str, schedule: str, recipe: str) -> None:
    """The schedule of a data set other than COCO, after that of the recipe (`none`: Detectron2's)."""
    if data in OF_DATA:
        OF_DATA[data](config, schedule, recipe)


def _steps(
    config: ConfigDict, schedule: str, *, batch: int, lr: float, one: int, drops: tuple[int, int]
) -> None:
    """`one` steps with two drops for 1x.

    2x doubles all three numbers; 3x trains three times as long, with its drops where Detectron2 has them.
    """
    config.train.batch_size = config.optim.base_batch_size = batch
    config.train.eval_every = 80_000 // batch  # as often by images as with 16 a step
    config.optim.lr = lr
    _set_length(config, schedule, one, drops)


def _set_length(config: ConfigDict, schedule: str, one: int, drops: tuple[int, int]) -> None:
    factor = int(schedule[:-1])
    config.train.steps = factor * one
    if factor == 3:
        config.optim.milestones = (one * 21 // 9, one * 25 // 9)
    else:
        config.optim.milestones = tuple(factor * drop for drop in drops)
