"""Cell nuclei in microscopy images (Data Science Bowl 2018) from nothing, on a CPU.

One class, up to 369 objects an image, nearly all of them small.

  python train.py --config=configs/nuclei.py:root=DIR --workdir=runs/nuclei

DIR is in COCO format as in configs/mask_rcnn.py:own. Arguments: `root`, `runlocal`.
"""

from configs import arguments, common, small


def get_config(arg=None):
    arg = arguments.parse_arg(arg, root="", runlocal=False)
    config = small.get_config(f"root={arg.root}")
    # Most images are 256 x 256; their nuclei are 8 to 40 pixels wide.
    config.data.buckets = ((256, 256), (256, 384))
    config.data.resize.short = (256,)
    config.data.max_instances = 256
    config.model.rpn.anchor_sizes = (8, 16, 32, 64, 128)
    config.model.rpn.pre_nms, config.model.rpn.post_nms = (1000, 1000), (500, 700)
    config.model.criterion.rpn.samples = 256
    config.model.criterion.roi.samples = 128
    config.model.test.max_detections = config.eval.max_detections = 400
    config.model.test.candidates = 700
    config.train.steps = 1400
    config.train.eval_every = config.train.save_every = 700
    if arg.runlocal:
        common.run_local(config)
    return config
