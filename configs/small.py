"""A small Mask R-CNN for your own data, trained from nothing; a CPU will do.

  python train.py --config=configs/small.py:root=DIR --workdir=runs/mine --config.train.steps=3000

DIR is a folder in COCO format: DIR/train, DIR/val (images), DIR/annotations/instances_{train,val}.json. Images are
resized to a shorter side of 256 pixels. Arguments: `root`; `runlocal`, a few steps only.
"""

from configs import arguments, common


def get_config(arg=None):
    arg = arguments.parse_arg(arg, root="", runlocal=False)
    config = common.base()
    common.own_data(config)
    common.small(config)
    common.small_run(config)
    config.data.root = arg.root
    if arg.runlocal:
        common.run_local(config)
    return config
