"""Mask R-CNN with FPN: Detectron2's R50-FPN recipe (box 38.6 / mask 35.2 AP there: 1x, ImageNet weights).

  python train.py --config=configs/mask_rcnn.py:root=/data/mine --workdir=runs/mine
  python train.py --config=configs/mask_rcnn.py:r50,1x,coco,root=/data/coco --workdir=runs/r50 --config.init_from=...

Arguments, each optional: `r18|r50|r101|x101_32x8d|x101_32x4d|r101_dcn|r101_dcnv2` (docs/models.md); schedule
`1x|2x|3x`; data `own|coco|lvis|cityscapes|shapes`; `root=DIR`, where the images and the annotations are; `tfds`, the
data set was prepared by `python -m jaxseg.data.prepare` with DIR as --data_dir (docs/data.md); `pretrained`;
`ranked`, Rank & Sort losses in the place of sampling (docs/methods/brefine.md); the scale, `small|runlocal`; the
papers' own training recipes, `atmask|maskplus|mr_rcnn|brefine` (configs/recipes.py); and the conventions of other
libraries, `torchvision|torchvision_v2|detectron2|mmdet`, see below.

`own` (what `root=DIR` alone means) is a folder of yours in COCO format: DIR/train, DIR/val (images),
DIR/annotations/instances_train.json and instances_val.json, and test likewise if there is one. Classes come from the
JSON. It trains from nothing, with group norm, for a number of steps that you should fit to your data:
--config.train.steps=... With `pretrained` it keeps the frozen norms and layers of `coco`, for --config.init_from.

`coco` is for pretrained weights: its norms and first stages are frozen. Where it differs from Detectron2: RoIAlign
takes 2 x 2 samples a bin instead of an adaptive number; pixels are normalised as torchvision's weights want them (RGB,
mean and deviation of ImageNet) and the stride of a bottleneck is in its 3x3 convolution, both settings; an object that
no anchor touches makes no anchor positive; at most `model.test.candidates` (box, class) pairs enter the suppression.
Its test sets, for `eval.py --split=test-dev` and `test-challenge`, are DIR/test2017 with DIR/annotations/image_info_*.

`lvis` and `cityscapes` are those, in COCO format. LVIS: DIR/annotations/lvis_v1_train.json and lvis_v1_val.json, images
in DIR/train2017 and val2017. Cityscapes: instancesonly_filtered_gtFine_train.json and
..._val.json in DIR/annotations, images in DIR/leftImg8bit/train and val; test likewise. Both have their published
schedules (configs/recipes.py) and are for pretrained weights, as `coco`: LVIS of Detectron2, 180,000 steps, with repeat
factors (data.repeat_threshold); Cityscapes of MMDetection, 8 epochs of everything eight times, from a model of COCO:

  python train.py --config=configs/mask_rcnn.py:cityscapes,root=/data/cityscapes --workdir=runs/cityscapes \
      --config.init_from=runs/coco

whose class layers are taken by name, and those of `rider`, which COCO lacks, from `person` (init_classes).

`shapes` are drawn scenes, for trying things without a download. It trains from nothing, as `own`.

`small` trains a model of 4 to 7 million parameters from nothing on small images, within about an hour on two CPU
cores (ten minutes with `shapes`), validated on 500 images: the method and the data are those of the other
arguments, the size and the schedule are not. A ResNet-18 stands for r18 and r50, a ResNet-34 for the others; 2x and
3x are two and three times as many steps. `runlocal` is a few steps of a tiny model, the same for every backbone and
schedule, to see that something runs. Neither starts from weights, so `pretrained` changes nothing in them.

In the conventions of other libraries their weights give their results, and can be fine-tuned:

  python -m jaxseg.weights maskrcnn_resnet50_fpn.pth --config=configs/mask_rcnn.py:torchvision --workdir=runs/tv
  python train.py --config=configs/mask_rcnn.py:torchvision,root=DIR --workdir=runs/mine --config.init_from=runs/tv

`torchvision`: maskrcnn_resnet50_fpn. THE EPSILON OF ITS FROZEN BATCH NORMS IS NOT IN THE FILE: torchvision sets it to 0
for the weights that it publishes (COCO_V1), and that is the default here. For a file that you trained yourself give
`eps=1e-5`, what torchvision uses for everything else. A wrong one shifts every feature a little and says nothing.
`torchvision_v2`: maskrcnn_resnet50_fpn_v2; its epsilon is always 1e-5.
`detectron2`: the R50-FPN model zoo. `mmdet`: mask-rcnn_r50_fpn of MMDetection 2 and 3.
`style=pytorch|caffe` says what the backbone was trained with: caffe, the stride in the 1x1 convolution and pixels not
divided by their deviation; pytorch, the stride in the 3x3 convolution and divided pixels. The default is caffe for
Detectron2's ResNets and pytorch for the others.
`exact` pads every image to the next multiples of 32 alone, as those libraries do in evaluation, instead of into one of
two buckets: their results to the last digits, for one compilation (some seconds) a shape; COCO has about forty.

Without data of your own there are 80 classes; for torchvision 90, COCO's category ids 1 to 90, ten of them unused.
What is left of their differences, and the measurements: docs/parity.md.
"""

from configs import arguments, backbones, common, recipes

_SCHEDULES = {  # steps, milestones at 16 images a step
    "1x": (90_000, (60_000, 80_000)),
    "2x": (180_000, (120_000, 160_000)),
    "3x": (270_000, (210_000, 250_000)),
}


def get_config(arg=None):
    arg = arguments.parse_arg(
        arg,
        like=("jaxseg", *_PRESETS),
        recipe=("none", *recipes.TABLE),
        backbone=backbones.NAMES,
        style=("auto", "pytorch", "caffe"),
        eps="",
        exact=False,
        schedule=("1x", "2x", "3x"),
        data=("auto", "own", "coco", "lvis", "cityscapes", "shapes"),
        root="",
        tfds=False,
        pretrained=False,
        ranked=False,
        small=False,
        runlocal=False,
    )
    if arg.like != "jaxseg" and arg.recipe != "none":
        raise ValueError(
            f"Config arguments {arg.like} and {arg.recipe}: a recipe has conventions of its own; leave one of them out."
        )
    config = common.base()
    backbones.choose(config, arg.backbone)
    config.train.steps, config.optim.milestones = _SCHEDULES[arg.schedule]
    config.data.root = arg.root
    config.model.num_classes = 80
    _set_conventions(config, arg)
    _set_data(config, arg)
    if arg.ranked:
        common.ranked(config, score=0.6 if arg.data == "lvis" else 0.4)
    if arg.small:
        _small(config, arg)
    if arg.runlocal:
        common.run_local(config)
    if arg.exact:
        config.data.buckets = _every_shape(config.data.eval_resize)
    return config


def _set_conventions(config, arg):
    if arg.like != "jaxseg":
        _PRESETS[arg.like](config)
        config.model.ignore_padding = False
        config.model.criterion.crowd_iof = 2.0  # they leave crowds out of training altogether
    if arg.recipe != "none":
        recipes.TABLE[arg.recipe](config, arg.schedule, arg.backbone)
    caffe = arg.like == "detectron2" or arg.recipe in recipes.CAFFE
    if caffe and arg.backbone.startswith(("r50", "r101")):
        _caffe(config)
    if arg.style != "auto":
        (_caffe if arg.style == "caffe" else _pytorch)(config)
    if arg.like == "mmdet" and arg.style == "caffe":
        config.model.backbone.norm = "frozen_bn"
    if arg.eps:
        config.model.backbone.norm_epsilon = float(arg.eps)


def _set_data(config, arg):
    own = arg.data == "own" or (arg.data == "auto" and arg.root)
    if own:
        common.own_data(config)
    if arg.data == "coco" or (arg.data == "auto" and not own):
        common.coco_tests(config)
    if arg.data in ("lvis", "cityscapes"):
        getattr(common, arg.data)(config)
        recipes.of_data(config, arg.data, arg.schedule, arg.recipe)
    if arg.data == "shapes":
        if arg.root:
            raise ValueError(f"Config argument root={arg.root!r}: `shapes` are drawn, not read.")
        if arg.tfds:
            raise ValueError("Config argument tfds: `shapes` are drawn, not read.")
        common.shapes_data(config)
    if arg.tfds:
        config.data.source = "tfds"
    if own or arg.data == "shapes":
        config.model.num_classes = 0
        if arg.like == "jaxseg" and not arg.pretrained:
            common.from_scratch(config)


def _small(config, arg):
    common.small(config)
    common.small_run(config)
    if arg.backbone.startswith(("r101", "x101")):
        config.model.backbone.depth = 34
    config.model.roi_sampling.ratio = 2  # an adaptive number takes a CPU too long
    config.eval.max_images = 500
    times = int(arg.schedule[:-1])
    config.train.steps, config.train.eval_every = (
        times * config.train.steps,
        times * config.train.eval_every,
    )


def _torchvision(config):
    model = config.model
    model.num_classes = 90
    model.backbone.norm_epsilon = 0.0  # of published weights; see above
    model.roi_sampling.aligned = False
    model.roi_sampling.level_tolerance = 1 - 2**-1e-6
    model.rpn.round_anchors = model.rpn.fitted_stride = True
    model.rpn.min_size = 1e-3
    model.rpn.post_nms = (2000, 1000)
    model.mask_head.soft_targets = True
    model.criterion.rpn.smooth_l1_beta = model.criterion.roi.smooth_l1_beta = 1 / 9
    model.criterion.rpn.average = "sampled"
    model.test.min_size = 1e-2
    model.test.paste = "torchvision"
    _resize(config, "torchvision", (800,))


def _torchvision_v2(config):
    _torchvision(config)
    model = config.model
    model.backbone.norm_epsilon = 1e-5
    model.backbone.norm = model.fpn.norm = "batch_norm"
    model.rpn.convs = 2
    model.box_head.convs, model.box_head.fcs, model.box_head.norm = 4, 1, "batch_norm"
    model.mask_head.norm = "batch_norm"


def _detectron2(config):
    model = config.model
    model.roi_sampling.ratio, model.roi_sampling.max_ratio = 0, 8
    _resize(config, "detectron2", config.data.resize.short)


def _mmdet(config):
    model = config.model
    model.two_sided_clamp = True
    model.backbone.norm = "batch_norm_eval"
    model.roi_sampling.ratio, model.roi_sampling.max_ratio = 0, 8
    model.roi_sampling.level_tolerance = 2.5e-7  # 1e-6 on a side of 224 in units of 56
    rpn, roi = model.criterion.rpn, model.criterion.roi
    rpn.low_quality, rpn.low_quality_iou = "reassign", 0.3
    roi.low_quality, roi.low_quality_iou = "reassign", 0.5
    rpn.average = "sampled"
    _resize(config, "mmdet", (800,))


_PRESETS = {
    "torchvision": _torchvision,
    "torchvision_v2": _torchvision_v2,
    "detectron2": _detectron2,
    "mmdet": _mmdet,
}


def _resize(config, method, short):
    config.data.resize.method = config.data.eval_resize.method = method
    config.data.resize.short = short


def _caffe(config):
    config.model.backbone.stride_in_1x1 = True
    config.model.pixel_std = (1.0, 1.0, 1.0)


def _pytorch(config):
    config.model.backbone.stride_in_1x1 = False
    config.model.pixel_std = (58.395, 57.12, 57.375)


def _every_shape(resize):
    """The canvases, multiples of 32, that images resized to `short` and `max` need."""

    def up(side):
        return -(-side // 32) * 32

    short, longest = up(resize.short), up(resize.max)
    landscape = [(short, width) for width in range(short, longest + 1, 32)]
    landscape += [(height, longest) for height in range(32, short, 32)]
    portrait = [(width, height) for height, width in landscape if height != width]
    return (*landscape, *portrait)
