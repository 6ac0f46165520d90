"""A small Mask R-CNN on procedurally drawn shapes: nothing to download, under 10 minutes on two CPU cores.

  python train.py --config=configs/demo.py --workdir=runs/demo

Argument: `runlocal`, a few steps only.
"""

from configs import arguments, common


def get_config(arg=None):
    arg = arguments.parse_arg(arg, runlocal=False)
    config = common.base()
    common.shapes_data(config)
    common.small(config)
    common.small_run(config)
    if arg.runlocal:
        common.run_local(config)
    return config
