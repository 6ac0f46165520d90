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
    config.data.shapes.train, config.data.shapes.val = 800, 60
    config.data.keep_empty = True
    config.data.buckets = ((160, 160),)
    config.data.resize.short, config.data.resize.max = (128, 144, 160), 160
    config.data.eval_resize.short, config.data.eval_resize.max = 160, 160
    config.data.max_instances = 16
    config.optim.lr, config.optim.base_batch_size = 0.04, 8
    config.optim.schedule, config.optim.warmup_steps = "cosine", 100
    config.train.batch_size, config.train.steps = 8, 600
    config.train.eval_every = config.train.save_every = 300
    config.eval.batch_size = 8
    if arg.runlocal:
        common.run_local(config)
        config.data.shapes.train, config.data.shapes.val = 16, 8
        config.data.buckets = ((160, 160),)
    return config
