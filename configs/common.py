"""What every config starts from, and the argument grammar `--config=FILE:arg,key=value`."""

from __future__ import annotations

from ml_collections import ConfigDict


def parse_arg(arg: str | None, **spec) -> ConfigDict:
    """Parses the part of `--config` after the colon.

    `spec` maps each argument to its default: a tuple of strings lists the allowed values (the first is the default), a
    bool is a switch, anything else takes a value of its own type. A bare word is a switch or one of the allowed values:
    `r101,1x,runlocal` equals `backbone=r101,schedule=1x,runlocal=True`.

    Raises:
      ValueError: unknown argument or value; the message lists what is allowed.
    """
    values = {k: v[0] if isinstance(v, tuple) else v for k, v in spec.items()}
    for token in filter(None, (arg or "").split(",")):
        key, given, value = token.partition("=")
        if not given:
            key, value = _bare(token, spec)
        if key not in spec:
            raise ValueError(f"Unknown config argument {token!r}. Allowed: {_allowed(spec)}.")
        values[key] = _convert(key, value, spec[key])
    return ConfigDict(values)


def _bare(token: str, spec: dict) -> tuple[str, object]:
    if isinstance(spec.get(token), bool):
        return token, "True"
    owners = [k for k, v in spec.items() if isinstance(v, tuple) and token in v]
    if len(owners) != 1:
        raise ValueError(f"Unknown config argument {token!r}. Allowed: {_allowed(spec)}.")
    return owners[0], token


def _convert(key: str, value: str, default: object) -> object:
    if isinstance(default, tuple):
        if value not in default:
            raise ValueError(f"Config argument {key}={value!r}: allowed are {', '.join(default)}.")
        return value
    if isinstance(default, bool):
        if value.lower() not in ("true", "false", "1", "0"):
            raise ValueError(f"Config argument {key}={value!r}: allowed are True and False.")
        return value.lower() in ("true", "1")
    return type(default)(value)


def _allowed(spec: dict) -> str:
    words = [
        f"{k}={'|'.join(v)}" if isinstance(v, tuple) else k if isinstance(v, bool) else f"{k}=..."
        for k, v in spec.items()
    ]
    return ", ".join(words)


def data() -> ConfigDict:
    """COCO 2017 with Detectron2's multi-scale recipe."""
    return ConfigDict(
        dict(
            source="coco_json",  # coco_json | shapes
            root="",  # relative paths below start here
            train=dict(images="train2017", annotations="annotations/instances_train2017.json"),
            val=dict(images="val2017", annotations="annotations/instances_val2017.json"),
            keep_empty=False,  # train on images without annotations
            shapes=dict(
                train=0, val=0, size=(128, 160), objects=(1, 8), seed=0
            ),  # source="shapes": images, (height, width)
            buckets=(
                (800, 1344),
                (1344, 800),
            ),  # (height, width) of the padded batch; an image takes the one that fits best
            resize=dict(
                mode="shortest_edge",
                short=(640, 672, 704, 736, 768, 800),
                max=1333,  # short: one is drawn per image
                scale=(0.1, 2.0),
                size=(1024, 1024),
            ),  # mode="lsj": drawn scale of `size`, then a crop of `size`
            eval_resize=dict(short=800, max=1333),
            flip=0.5,
            max_instances=100,  # objects kept per training image, the largest first
            max_crowds=10,
            mask_crop_size=112,  # side of the mask crops that travel to the device; a multiple of 8
            workers=2,  # grain worker processes; 0 loads in this process
            prefetch=2,  # batches a worker prepares ahead
        )
    )


def model() -> ConfigDict:
    """Mask R-CNN R50-FPN as in Detectron2's R50-FPN recipe (sampling ratio 2)."""
    return ConfigDict(
        dict(
            num_classes=0,  # 0: taken from the data set's JSON
            dtype="float32",  # compute: float32 | bfloat16; parameters are float32
            pixel_mean=(123.675, 116.28, 103.53),
            pixel_std=(58.395, 57.12, 57.375),  # RGB
            roi_align="xla",
            backbone=dict(name="resnet", depth=50, width=64, norm="frozen_bn", stride_in_1x1=False),
            fpn=dict(channels=256, norm="none"),
            rpn=dict(
                channels=256,
                convs=1,
                anchor_sizes=(32, 64, 128, 256, 512),
                aspect_ratios=(0.5, 1.0, 2.0),
                pre_nms=(2000, 1000),
                post_nms=(1000, 1000),  # (train, test); pre is per level
                nms_iou=0.7,
                min_size=0.0,
            ),
            box_head=dict(name="fc", fc_dim=1024, fcs=2, pool=7, class_agnostic=False),
            mask_head=dict(
                name="fcn", channels=256, convs=4, pool=14, class_agnostic=False, norm="none"
            ),
            topology=dict(name="single"),
            criterion=dict(
                name="softmax",
                rpn=dict(
                    positive_iou=0.7,
                    negative_iou=0.3,
                    samples=256,
                    positive_fraction=0.5,
                    coder=(1.0, 1.0, 1.0, 1.0),
                    smooth_l1_beta=0.0,
                ),
                roi=dict(
                    positive_iou=0.5,
                    samples=512,
                    positive_fraction=0.25,
                    coder=(10.0, 10.0, 5.0, 5.0),
                    smooth_l1_beta=0.0,
                ),
                crowd_iof=0.5,  # a background candidate that lies this far on a crowd region is ignored
                weights=dict(
                    rpn_objectness=1.0, rpn_box=1.0, classification=1.0, box=1.0, mask=1.0
                ),
            ),
            test=dict(
                score=0.05, nms_iou=0.5, max_detections=100, candidates=2000, mask_threshold=0.5
            ),
        )
    )


def base() -> ConfigDict:
    """Every key there is, at the values of the 1x schedule with 16 images a step."""
    return ConfigDict(
        dict(
            method="mask_rcnn",
            seed=0,
            deterministic=False,  # on GPU: the same bits for the same run (slower); CPU and TPU always are
            init_from="",  # work directory of a jaxseg run whose weights to start from
            freeze=("backbone/stem", "backbone/stage1"),  # parameter paths that do not train
            data=data(),
            model=model(),
            optim=dict(
                lr=0.02,
                base_batch_size=16,
                momentum=0.9,
                weight_decay=1e-4,
                clip_norm=0.0,  # 0: no clipping
                schedule="step",
                milestones=(60_000, 80_000),
                gamma=0.1,  # schedule: step | cosine
                warmup_steps=1000,
                warmup_factor=0.001,
                accumulate=1,  # parts that a batch is split into, one after another, to save memory
                ema=0.0,
            ),  # decay of the averaged weights that are evaluated; 0: none
            train=dict(
                batch_size=16, steps=90_000, log_every=20, eval_every=5_000, save_every=1_000
            ),
            eval=dict(
                batch_size=8,
                max_detections=100,
                evaluator="faster_coco_eval",  # or pycocotools
                split="val",
                max_images=0,
                step="latest",
            ),  # step: latest | best | a number; max_images 0: all
        )
    )
