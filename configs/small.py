"""A small Mask R-CNN for your own data, trained from nothing; a CPU will do.

  python train.py --config=configs/small.py:root=DIR --workdir=runs/mine --config.train.steps=3000

DIR is a folder in COCO format: DIR/train, DIR/val (images), DIR/annotations/instances_{train,val}.json. Images are
resized to a shorter side of 256 pixels. Arguments: `root`; `runlocal`, a few steps only.
"""

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(arg, root="", runlocal=False)
    config = common.base()
    common.own_data(config)
    common.small(config)
    config.data.root = arg.root
    config.data.buckets = ((256, 256), (256, 384), (384, 256))
    config.data.resize.short, config.data.resize.max = (224, 256), 384
    config.data.eval_resize.short, config.data.eval_resize.max = 256, 384
    config.optim.lr, config.optim.base_batch_size = 0.02, 8
    config.optim.schedule, config.optim.warmup_steps = "cosine", 100
    config.train.batch_size, config.train.steps = 4, 3000
    config.train.eval_every = config.train.save_every = 500
    config.eval.batch_size = 4
    if arg.runlocal:
        common.run_local(config)
    return config
