"""A small Mask R-CNN on procedurally drawn shapes: nothing to download, under 10 minutes on two CPU cores.

  python train.py --config=configs/demo.py --workdir=runs/demo

Argument: `runlocal`, a few steps only.
"""

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(arg, runlocal=False)
    config = common.base()
    common.small(config)
    config.data.source = "shapes"
    config.data.shapes.train, config.data.shapes.val = 1000, 60
    config.data.keep_empty = True
    config.data.buckets = ((128, 128),)
    config.data.shapes.size = (112, 128)
    config.data.resize.short, config.data.resize.max = (112, 120, 128), 128
    config.data.eval_resize.short, config.data.eval_resize.max = 128, 128
    config.data.max_instances = 16
    config.model.rpn.anchor_sizes = (12, 24, 48, 80, 112)
    config.model.mask_head.convs = 3
    config.optim.lr, config.optim.base_batch_size = 0.02, 4
    config.optim.schedule, config.optim.warmup_steps = "cosine", 100
    config.train.batch_size, config.train.steps = 4, 1100
    config.train.eval_every = config.train.save_every = 550
    if arg.runlocal:
        common.run_local(config)
        config.data.shapes.train, config.data.shapes.val = 16, 8
        config.data.buckets = ((128, 128),)
    return config
