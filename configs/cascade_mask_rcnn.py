"""Cascade Mask R-CNN (Cai & Vasconcelos 2018, 2019): three box heads, each on the boxes of the one before.

  python train.py --config=configs/cascade_mask_rcnn.py:root=/data/mine --workdir=runs/mine
  python train.py --config=configs/cascade_mask_rcnn.py:detectron2,r50,1x,coco,root=/data/coco --workdir=runs/cascade \
      --config.init_from=R-50.pkl

Arguments: all of configs/mask_rcnn.py, but torchvision's conventions: it has no cascade. Settings: `model.cascade` in
configs/common.py, for example --config.model.cascade.mask_heads=3.

Without conventions, and with `detectron2`: IoU 0.5, 0.6 and 0.7, one box regressor for all classes a stage, three
losses of weight 1 with a third of their gradient reaching the features, one mask head that learns on the proposals,
scores averaged as probabilities. `mmdet` is MMDetection's: three mask heads, each on the boxes of its stage; weights 1,
0.5 and 0.25; smooth L1; scores averaged as logits; box coders of the stages by its rounded deviations. Both import the
files of their libraries:

  python -m jaxseg.weights FILE.pkl --config=configs/cascade_mask_rcnn.py:detectron2,r50 --workdir=runs/d2
  python -m jaxseg.weights FILE.pth --config=configs/cascade_mask_rcnn.py:mmdet,r50 --workdir=runs/mmdet

Published box / mask AP on val2017:

                          Mask R-CNN    Cascade Mask R-CNN
  Detectron2, R50, 1x     38.6 / 35.2   42.1 / 36.4
  Detectron2, R50, 3x     41.0 / 37.2   44.3 / 38.5
  MMDetection, R50, 1x    38.2 / 34.7   41.2 / 35.9

Detectron2 trains it in 0.317 s a step of 16 images (Mask R-CNN: 0.261) on eight V100. The rows as one command:
`python -m jaxseg.reproduce cascade_mask_rcnn --workdir=DIR`. See docs/methods/cascade_mask_rcnn.md.
"""

from configs import mask_rcnn

_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


def get_config(arg=None):
    words = {word.removeprefix("like=") for word in (arg or "").split(",")}
    for name in ("torchvision", "torchvision_v2"):
        if name in words:
            raise ValueError(
                f"Config argument {name}: torchvision has no Cascade Mask R-CNN. Take `detectron2`, `mmdet` or none of "
                "them; weights of a torchvision ResNet can be given to --config.init_from as they are."
            )
    config = mask_rcnn.get_config(arg)
    set_cascade(config, mmdet=bool({"mmdet", "brefine", "recipe=brefine"} & words))
    return config


def set_cascade(config, *, mmdet: bool = False):
    """Makes a config of Mask R-CNN one of Cascade Mask R-CNN: Detectron2's, or MMDetection's."""
    model = config.model
    config.method = "cascade_mask_rcnn"
    model.box_head.class_agnostic = True
    if tuple(model.rpn.post_nms) == (1000, 1000):
        model.rpn.post_nms = (2000, 1000)
    if mmdet:
        _mmdet(model)


def _mmdet(model):
    cascade, criterion = model.cascade, model.criterion
    cascade.coders = tuple(tuple(1 / std for std in stage) for stage in _STDS)
    cascade.loss_weights, cascade.scale_gradient = (1.0, 0.5, 0.25), False
    cascade.average, cascade.mask_heads = "logits", 3
    criterion.roi.coder = cascade.coders[0]
    criterion.roi.low_quality, criterion.roi.low_quality_iou = "none", 0.0
    criterion.rpn.smooth_l1_beta, criterion.roi.smooth_l1_beta = 1 / 9, 1.0
