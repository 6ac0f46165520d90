"""What every config starts from."""

from __future__ import annotations

from ml_collections import ConfigDict


def data() -> ConfigDict:
    """COCO 2017 with Detectron2's multi-scale recipe."""
    config = ConfigDict()
    config.source = "coco_json"  # coco_json | shapes | tfds: prepared, in the folder `root`
    config.root = ""  # relative paths below start here
    config.train = ConfigDict(
        {"images": "train2017", "annotations": "annotations/instances_train2017.json"}
    )
    config.val = ConfigDict(
        {"images": "val2017", "annotations": "annotations/instances_val2017.json"}
    )
    config.test = ConfigDict(
        {"images": "", "annotations": ""}
    )  # for eval.split=test; unused if empty
    # Of test servers: eval.split=test_dev (--split=test-dev) and test_challenge write files for COCO's.
    config.test_dev = ConfigDict({"images": "", "annotations": ""})
    config.test_challenge = ConfigDict({"images": "", "annotations": ""})
    config.tfds = ConfigDict()  # for source="tfds"; see docs/data.md
    config.tfds.name = "coco2017"  # | lvis_v1 | cityscapes_instances | own, or what it was given
    config.keep_empty = False  # train on images without annotations
    # Images with a class that a smaller share of them has come several times an epoch (LVIS: 0.001); 0: none does.
    config.repeat_threshold = 0.0
    config.shapes = ConfigDict()  # for source="shapes"
    config.shapes.train = 0  # images a split
    config.shapes.val = 0
    config.shapes.size = (128, 160)  # range of an image's sides, in pixels
    config.shapes.objects = (1, 8)  # range of the number of objects
    config.shapes.huddled = 0.35  # share of objects put beside the one before, touching or covering
    config.shapes.seed = 0
    # (height, width) of padded batches, multiples of 32; an image takes the one that fits it best.
    config.buckets = ((800, 1344), (1344, 800))
    config.resize = ConfigDict()  # training
    config.resize.mode = (
        "shortest_edge"  # or lsj: `scale` times `size`, then a crop or padding to `size`
    )
    config.resize.method = "opencv"  # opencv | torchvision | detectron2 | mmdet: as those resize
    config.resize.short = (640, 672, 704, 736, 768, 800)  # one is drawn for each image
    config.resize.max = 1333
    config.resize.scale = (0.1, 2.0)  # range that lsj draws from
    config.resize.size = (1024, 1024)
    config.eval_resize = ConfigDict({"method": "opencv", "short": 800, "max": 1333})
    config.flip = 0.5
    config.max_instances = 100  # objects kept per training image, the largest first
    config.max_crowds = 10
    config.eroded_masks = (
        0.0  # for brefine.boundary_on="image": masks lose this share of their box's diagonal
    )
    config.mask_crop_size = 112  # side of the mask crops that travel to the device; a multiple of 8
    config.workers = 2  # grain worker processes; 0 loads in this process
    config.prefetch = 2  # batches a worker prepares ahead
    return config


def model() -> ConfigDict:
    """Mask R-CNN R50-FPN as in Detectron2's R50-FPN recipe (sampling ratio 2)."""
    config = ConfigDict()
    config.num_classes = 0  # 0: taken from the data set's JSON
    config.dtype = "float32"  # compute: float32 | bfloat16; parameters are float32
    config.pixel_mean = (123.675, 116.28, 103.53)  # RGB, 0..255
    config.pixel_std = (58.395, 57.12, 57.375)
    config.roi_align = "auto"  # the best that applies | xla | mosaic_gpu | triton | tpu
    config.roi_sampling = ConfigDict()
    config.roi_sampling.ratio = 2  # RoIAlign samples a bin and axis; 0: one for each cell it spans
    config.roi_sampling.max_ratio = 4  # of ratio 0; its square is what pooling costs
    config.roi_sampling.aligned = True  # False: without the shift by half a cell (torchvision)
    config.roi_sampling.level_tolerance = 0.0  # share by which a side may miss a level's bound
    # Anchors centred on padding propose and learn nothing, and RoIAlign stops at the image's edge. False: as in other
    # libraries, padding up to the edge of the canvas is part of the image but for the clipping of boxes.
    config.ignore_padding = True
    config.two_sided_clamp = False  # bound how much a box delta may shrink a side too (MMDetection)
    config.backbone = ConfigDict()
    config.backbone.name = "resnet"
    config.backbone.depth = 50  # 10 | 18 | 34 | 50 | 101
    config.backbone.width = 64  # channels of the stem
    config.backbone.norm = "frozen_bn"  # frozen_bn | batch_norm | batch_norm_eval | group_norm
    config.backbone.norm_epsilon = 1e-5  # 0 for torchvision's published detectors without "v2"
    config.backbone.stride_in_1x1 = False
    config.backbone.groups = 1  # of the 3x3 convolutions of bottlenecks; ResNeXt 32x8d: 32
    config.backbone.width_per_group = 64  # channels of each in stage 1; ResNeXt 32x8d: 8
    config.backbone.deform = "none"  # none | v1 | v2 (modulated): of those convolutions
    config.backbone.deform_stages = (2, 3, 4)  # C3, C4, C5
    config.backbone.deform_groups = 1  # parts of the channels with offsets of their own
    config.fpn = ConfigDict({"channels": 256, "norm": "none"})
    config.rpn = ConfigDict()
    config.rpn.channels = 256
    config.rpn.convs = 1
    config.rpn.anchor_sizes = (32, 64, 128, 256, 512)  # one a level, P2..P6
    config.rpn.aspect_ratios = (0.5, 1.0, 2.0)  # height / width
    config.rpn.pre_nms = (2000, 1000)  # (training, test) candidates a level
    config.rpn.post_nms = (1000, 1000)  # proposals an image
    config.rpn.nms_iou = 0.7
    config.rpn.min_size = 0.0  # proposals with a side not longer than this are dropped, in pixels
    config.rpn.round_anchors = False  # to whole pixels (torchvision)
    config.rpn.fitted_stride = False  # anchors lie canvas // cells apart (torchvision)
    config.box_head = ConfigDict()
    config.box_head.name = "fc"
    config.box_head.pool = 7
    config.box_head.fcs = 2
    config.box_head.fc_dim = 1024
    config.box_head.convs = 0  # 3x3 convolutions before the fully connected layers
    config.box_head.channels = 256  # of those
    config.box_head.norm = "none"  # of those: as backbone.norm, or none
    config.box_head.class_agnostic = False
    config.mask_head = ConfigDict()
    config.mask_head.name = "fcn"  # | atmask | brefine
    config.mask_head.pool = 14
    config.mask_head.convs = 4
    config.mask_head.channels = 256
    config.mask_head.norm = "none"
    config.mask_head.source = "multi"  # pools by a RoI's size from P2..P5 | P2: always from that
    # Of its logits (of atmask: those of P): ce: cross-entropy | balanced_ce | dice | focal | ce_dice | brce: BRefine's.
    config.mask_head.loss = "ce"
    config.mask_head.soft_targets = False  # learn the share of a cell that is covered, not 0 or 1
    config.mask_head.class_agnostic = False
    config.atmask = atmask()
    config.brefine = brefine()
    config.maskplus = maskplus()
    config.refine = refine()
    config.cascade = cascade()
    config.criterion = criterion()
    config.test = ConfigDict()
    config.test.score = 0.05
    config.test.nms_iou = 0.5
    config.test.max_detections = 100
    config.test.candidates = 2000  # (box, class) pairs an image that enter the suppression
    config.test.min_size = 0.0  # detections with a side not longer than this are dropped
    config.test.score_alpha = 1.0  # of mr_rcnn: the weight of the refined scores
    config.test.refine_topk = 1000  # of mr_rcnn: so many proposals an image are refined
    config.test.mask_threshold = 0.5
    config.test.paste = "continuous"  # or torchvision: boxes are cut to whole pixels
    return config


def atmask() -> ConfigDict:
    """The mask head of ATMask R-CNN, `mask_head.name="atmask"`, in every method."""
    config = ConfigDict()
    config.threshold = True  # False: the FCN head
    config.p2t = True  # features of probabilities enter those of thresholds
    config.t2p = True  # and the other way round, with a 3x3 convolution
    config.fuse = "concat1x1"  # how: side by side, then a convolution of 1x1 | concat3x3 | sum
    config.thr_source = "P2"  # what thresholds are pooled from | multi: by a RoI's size, P2..P5
    config.thr_pool = 28  # at this size, which a strided convolution brings to mask_head.pool
    config.thr_convs = 2  # convolutions after P2T
    config.thr_target = "inverse"  # 1 - mask | same: the mask | boundary: its edge | none
    config.k = 2.0  # steepness of B = sigmoid(k (P - T))
    config.lambda_bin = 2.0  # weight of the loss of B; 0: none
    config.binarise_on = "prob"  # P and T are probabilities | logit: they are logits
    config.infer_map = "B"  # the mask of a detection | P
    return config


def brefine() -> ConfigDict:
    """The mask head of BRefine, `mask_head.name="brefine"`, and its loss, `mask_head.loss="brce"`, in every method."""
    config = ConfigDict()
    config.stages = 3  # with masks of 14x14 | 28x28 | 56x56
    config.ram = (
        "d123_res"  # residual-aware module: dilations 1, 2, 3 and a sum | d123 | d12 | d1 | none
    )
    config.upsample = "bilinear"  # between stages | deconv
    config.fusion = "sum"  # of the main line and fine features | concat1x1
    config.boundary_lambda = 1.0  # how much more a mask's inner edge counts; 0: plain cross-entropy
    config.boundary_ratio = 0.02  # its width, as a share of the target's diagonal
    config.boundary_on = "target"  # erodes that | image: data.eroded_masks, the object in the image
    config.boundary_border = "zero"  # beyond the RoI is background | edge: as at its edge
    return config


def maskplus() -> ConfigDict:
    """The techniques of MaskPlus (WACV 2020), each on its own and in every method; by default none."""
    config = ConfigDict()
    config.context = ()  # widths of contextual fusion, the paper's best: (720, 512, 512, 256)
    config.context_level = 5  # P5; 2 to 5
    config.pyramid = "none"  # deconvolutional pyramid: pooled: back to 14x14 | doubled: to 28x28
    config.boundary = "none"  # refinement of the mask logits: none | original | improved
    config.boundary_kernels = (1, 3)  # of improved; or (3, 3)
    config.boundary_norm = "image"  # its batch norm: statistics of each image | batch: of all
    config.quasi = "none"  # another mask branch in training: none | half | double (the size)
    config.mask_out = "doubled"  # 28x28 masks; pooled: 14x14, the paper's control of quasi
    config.alpha = 1.0  # weight of the mask losses in the first part of training; paper: 1.5
    config.alpha_until = 0.5  # of all steps
    return config


def refine() -> ConfigDict:
    """What `method="mr_rcnn"` adds (MR R-CNN, Ding et al. 2019); the other methods do not use it."""
    config = ConfigDict()
    config.align = "shape"  # pools by the mask; "roi": plain RoIAlign, as the paper's ablation
    config.guidance = (
        "mul"  # features x mask | one_plus: x (1 + mean of the mask in the bin) | normalised
    )
    config.cls = True  # classify again; False: the first scores stay
    config.reg = True  # refine boxes again; False: detections keep the first box of their RoI
    config.iou = 0.5  # with an object, from which a RoI on its first box is foreground
    config.relabel = True  # False: it keeps the label of its proposal
    config.pseudo_labels = (
        True  # background is guided by the mask of its likeliest class; False: left out
    )
    config.mask_grad = True  # the gradient of the refined scores and boxes reaches the guiding mask
    config.info_flow = (
        "B"  # mask features from the first box | Br: computed again on the refined one | none
    )
    config.flow_relu = True  # after their 1x1 convolution
    return config


def cascade() -> ConfigDict:
    """What `method="cascade_mask_rcnn"` adds (Cai & Vasconcelos 2018); the other methods do not use it."""
    config = ConfigDict()
    config.ious = (0.5, 0.6, 0.7)  # with an object, from which a box of each stage is foreground
    config.coders = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
    config.loss_weights = (1.0, 1.0, 1.0)  # of the stages; MMDetection: 1, 0.5, 0.25
    config.scale_gradient = True  # of the box heads' features, by 1 / stages (MMDetection: not)
    config.average = "probabilities"  # of the stages are a detection's scores | logits
    config.mask_heads = 1  # on the proposals; or one a stage, on its boxes (MMDetection)
    return config


def criterion() -> ConfigDict:
    """Balanced sampling, cross-entropy and L1; or ranking losses."""
    config = ConfigDict()
    config.name = "softmax"  # | rank_sort: all candidates, ranked; see modeling/rank_sort
    config.rpn = ConfigDict()
    config.rpn.positive_iou = 0.7
    config.rpn.negative_iou = 0.3
    config.rpn.low_quality = "keep"  # an object's best anchor is positive: none | keep | reassign
    config.rpn.low_quality_iou = 0.0  # if its IoU is at least this
    config.rpn.samples = 256  # anchors an image; of softmax
    config.rpn.positive_fraction = 0.5  # of softmax
    config.rpn.coder = (1.0, 1.0, 1.0, 1.0)
    config.rpn.smooth_l1_beta = 0.0  # 0: L1; of softmax
    # Of softmax: over samples x images, or "sampled": over those that there are.
    config.rpn.average = "slots"
    config.roi = ConfigDict()
    config.roi.positive_iou = 0.5
    config.roi.low_quality = "none"
    config.roi.low_quality_iou = 0.0
    config.roi.samples = 512  # proposals an image; of softmax
    config.roi.positive_fraction = 0.25  # of softmax
    config.roi.coder = (10.0, 10.0, 5.0, 5.0)
    config.roi.smooth_l1_beta = 0.0  # of softmax
    config.rank_sort = ConfigDict()
    config.rank_sort.group = 2  # images that are ranked together
    config.rank_sort.delta = 0.5  # half the width of the step between below and above, in logits
    config.rank_sort.max_positives = 100  # an image, of which masks are learned
    config.rank_sort.balance_masks = (
        True  # against the box head's ranking; False: they count as they are
    )
    # A background candidate that lies this far on a crowd region is ignored; above 1: never.
    config.crowd_iof = 0.5
    config.weights = ConfigDict(
        {
            "rpn_objectness": 1.0,
            "rpn_box": 1.0,
            "classification": 1.0,
            "box": 1.0,
            "mask": 1.0,
            "mask_auxiliary": 1.0,  # of maskplus.quasi
            "mask_threshold": 1.0,  # of atmask, and the two below
            "mask_boundary": 1.0,
            "mask_binary": 1.0,
            "refine_classification": 1.0,  # of mr_rcnn, and all below
            "refine_box": 1.0,
            "refine_mask": 1.0,
            "refine_mask_auxiliary": 1.0,
            "refine_mask_threshold": 1.0,
            "refine_mask_boundary": 1.0,
            "refine_mask_binary": 1.0,
        }
    )
    return config


HEADS = ("rpn", "roi_heads/box_head", "roi_heads/mask_head")  # of a trained Mask R-CNN


def base() -> ConfigDict:
    """Every key there is, at the values of the 1x schedule with 16 images a step."""
    config = ConfigDict()
    config.method = "mask_rcnn"
    config.seed = 0
    config.deterministic = (
        False  # on GPU: the same bits for the same run (slower); CPU and TPU always are
    )
    # Work directory of a run to start from, or a file of other libraries' weights.
    config.init_from = ""
    # Where its classes are others: "": class layers start anew | by_name: rows of classes of the same name are taken |
    # by_name,rider=person,...: and the weights of `person` for a class `rider` that it lacks.
    config.init_classes = ""
    config.checkpoints = (
        ""  # where they are saved: a folder or gs://BUCKET/PATH; "": in the workdir
    )
    config.needs_heads = ()  # parts without whose trained weights in init_from it does not start
    config.freeze = ("backbone/stem", "backbone/stage1")  # parameter paths that do not train
    config.data = data()
    config.model = model()
    config.mesh = ConfigDict()
    # Devices that share one copy of parameters and optimizer state, where memory is short; 1: each has its own.
    config.mesh.fsdp = 1
    config.optim = ConfigDict()
    config.optim.lr = 0.02  # at base_batch_size; scaled in proportion to train.batch_size
    config.optim.base_batch_size = 16
    config.optim.momentum = 0.9
    config.optim.weight_decay = 1e-4  # none on the parameters of norms
    config.optim.clip_norm = 0.0  # largest global norm of the gradient; 0: no clipping
    config.optim.schedule = "step"  # step | cosine
    config.optim.milestones = (60_000, 80_000)
    config.optim.gamma = 0.1
    config.optim.warmup_steps = 1000
    config.optim.warmup_factor = 0.001
    config.optim.accumulate = (
        1  # parts that a batch is computed in, one after another, to save memory
    )
    config.optim.ema = 0.0  # decay of averaged weights, which are then what is evaluated; 0: none
    config.train = ConfigDict()
    config.train.batch_size = 16
    config.train.steps = 90_000
    config.train.log_every = 20
    config.train.eval_every = 5_000
    config.train.save_every = 1_000
    config.eval = ConfigDict()
    config.eval.batch_size = 8  # of each process
    config.eval.max_detections = 100
    config.eval.evaluator = "faster_coco_eval"  # or pycocotools
    # How it is measured: coco | lvis | cityscapes; auto: as one of the last two if the ground truth has its fields.
    config.eval.protocol = "auto"
    config.eval.boundary = False  # Boundary AP, too; of coco and lvis
    config.eval.area_from = "mask"  # size of a detected mask: its own area | box: of its box
    config.eval.split = "val"
    config.eval.max_images = 0  # 0: all
    # Processes that paste masks; 0: in this process; -1: as many as there are cores, at most 4.
    config.eval.workers = -1
    # Test-time augmentation: an image is shown several times, and what is found is merged.
    config.eval.tta = ConfigDict()
    config.eval.tta.scales = ()  # shorter sides, e.g. (600, 800, 1000); (): data.eval_resize.short
    config.eval.tta.flip = False  # each of them from left to right, too
    config.eval.step = "latest"  # latest | best | a number
    return config


def coco_tests(config: ConfigDict) -> None:
    """The images of COCO's test server: test-dev, and test-challenge, which is the whole of test2017."""
    for split, name in (("test_dev", "test-dev2017"), ("test_challenge", "test2017")):
        config.data[split].images = "test2017"
        config.data[split].annotations = f"annotations/image_info_{name}.json"


def own_data(config: ConfigDict) -> None:
    """A COCO-format folder of the user: train/, val/, annotations/instances_{train,val}.json under `data.root`.

    And test/, if there is one.
    """
    for split in ("train", "val", "test"):
        config.data[split].images = split
        config.data[split].annotations = f"annotations/instances_{split}.json"
    config.data.tfds.name = "own"
    config.data.keep_empty = True


def lvis(config: ConfigDict) -> None:
    """LVIS v1 on COCO's images, in COCO format: 1203 classes, up to 300 detections an image."""
    for split in ("train", "val"):
        config.data[split].images = "."
        config.data[split].annotations = f"annotations/lvis_v1_{split}.json"
    config.data.tfds.name = "lvis_v1"
    config.data.max_instances = 300
    config.data.repeat_threshold = 0.001
    config.model.num_classes = 1203
    config.model.test.max_detections = config.eval.max_detections = 300
    config.model.test.score = 1e-4


def cityscapes(config: ConfigDict) -> None:
    """Cityscapes in COCO format, its 8 classes with instances, at full size, from a model of COCO.

    `test` is that of its test server.
    """
    for split in ("train", "val", "test"):
        config.data[split].images = f"leftImg8bit/{split}"
        config.data[split].annotations = f"annotations/instancesonly_filtered_gtFine_{split}.json"
    config.data.tfds.name = "cityscapes_instances"
    config.data.buckets = ((1024, 2048),)
    config.data.resize.short = tuple(range(800, 1025, 32))
    config.data.resize.max = config.data.eval_resize.max = 2048
    config.data.eval_resize.short = 1024
    config.model.num_classes = 8
    config.init_classes = "by_name,rider=person"  # the one of its classes that COCO lacks


def shapes_data(config: ConfigDict) -> None:
    """Drawn scenes of the size of photographs; there is nothing to download."""
    config.data.source = "shapes"
    config.data.shapes.train, config.data.shapes.val = 2000, 200
    config.data.shapes.size = (480, 640)
    config.data.keep_empty = True


def from_scratch(config: ConfigDict) -> None:
    """For training without pretrained weights: norms that learn, nothing frozen, gradients clipped."""
    config.freeze, config.init_classes = (), ""
    config.model.backbone.norm = "group_norm"
    config.model.fpn.norm = "group_norm"
    config.optim.clip_norm = 10.0


def ranked(config: ConfigDict, *, score: float) -> None:
    """Rank & Sort losses with the settings of the code of BRefine; `score`, from which on it counts detections."""
    criterion = config.model.criterion
    criterion.name = "rank_sort"
    criterion.rpn.coder = (10.0, 10.0, 5.0, 5.0)
    criterion.weights.rpn_objectness = criterion.weights.rpn_box = 0.2
    config.model.test.score = score


def small(config: ConfigDict) -> None:
    """A Mask R-CNN of about 4 million parameters that learns small data sets from nothing on a CPU."""
    from_scratch(config)
    model = config.model
    model.backbone.depth, model.backbone.width = 18, 32
    model.backbone.groups, model.backbone.width_per_group, model.backbone.deform = 1, 64, "none"
    model.backbone.stride_in_1x1 = False  # its blocks have no 1x1
    model.fpn.channels = model.rpn.channels = 64
    model.rpn.anchor_sizes = (16, 32, 64, 128, 256)
    model.rpn.pre_nms, model.rpn.post_nms = (400, 300), (250, 150)
    model.box_head.fc_dim = 256
    model.mask_head.channels, model.mask_head.convs = 64, 2
    model.criterion.rpn.samples = 128
    model.criterion.roi.samples = 64
    model.criterion.rank_sort.max_positives = 16
    model.test.candidates = 600
    config.data.mask_crop_size = 56
    config.data.workers = 1


def small_run(config: ConfigDict) -> None:
    """Image sizes and a schedule for `small`: within an hour on two CPU cores, ten minutes with drawn scenes."""
    if config.data.source == "shapes":
        config.data.shapes.train, config.data.shapes.val = 1000, 60
        config.data.shapes.size = (112, 128)
        config.data.max_instances = 16
        config.data.buckets = ((128, 128),)
        config.data.resize.short, config.data.resize.max = (112, 120, 128), 128
        config.data.eval_resize.short, config.data.eval_resize.max = 128, 128
        config.model.rpn.anchor_sizes = (12, 24, 48, 80, 112)
        config.model.mask_head.convs = 3
        config.optim.base_batch_size = 4
        config.train.steps = 1100
        config.train.eval_every = config.train.save_every = 550
    else:
        config.data.buckets = ((256, 256), (256, 384), (384, 256))
        config.data.resize.short, config.data.resize.max = (224, 256), 384
        config.data.eval_resize.short, config.data.eval_resize.max = 256, 384
        config.optim.base_batch_size = 8
        config.train.steps = 3000
        config.train.eval_every = config.train.save_every = 500
        config.eval.batch_size = 4
    config.optim.lr = 0.02
    config.optim.schedule, config.optim.warmup_steps = "cosine", 100
    config.train.batch_size = 4


def run_local(config: ConfigDict) -> None:
    """A few steps at a tiny size, to see that a config runs."""
    small(config)
    config.model.backbone.depth, config.model.backbone.width = 10, 16
    config.model.fpn.channels = config.model.rpn.channels = 32
    config.data.buckets = ((128, 160), (160, 128))
    config.data.resize.short, config.data.resize.max = (128,), 160
    config.data.resize.size = (128, 128)
    config.data.eval_resize.short, config.data.eval_resize.max = 128, 160
    config.data.workers = 0
    if config.data.source == "shapes":
        config.data.shapes.train, config.data.shapes.val = 16, 8
        config.data.shapes.size = (112, 128)
        config.data.buckets = ((128, 128),)
    config.optim.warmup_steps, config.optim.milestones = 2, (8,)
    config.train.batch_size = 2
    config.train.steps, config.train.log_every = 10, 2
    config.train.eval_every = config.train.save_every = 5
    config.eval.batch_size, config.eval.max_images, config.eval.workers = 2, 8, 0
