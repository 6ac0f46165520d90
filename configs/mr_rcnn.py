"""Mask Refining R-CNN (Ding et al. 2019): a trained Mask R-CNN whose masks refine its boxes, and boxes its masks.

  python train.py --config=configs/mr_rcnn.py:r50,coco,root=/data/coco --workdir=runs/mr --config.init_from=runs/r50

It starts from a trained Mask R-CNN (a work directory, or a file of another library's, with that library's argument) and
trains 9,000 steps of 16 images at 0.002, a tenth of that from step 6,000. The refining heads begin as copies of the
trained ones. Without a trained RPN, box head and mask head to start from it is refused, but with `runlocal`, whose few
steps only show that it runs. `end_to_end` trains everything from pretrained backbone weights for 1x, 2x or 3x instead.

Arguments: all of configs/mask_rcnn.py (`x101` is `x101_32x8d`), and the rows of the paper's ablations. 2x and 3x are
for `end_to_end` and `small`; other numbers of steps to go on with are --config.train.steps=...

  table3.base table3.rm table3.rm_sara        refining module without and with Shape-aware RoIAlign
  table4.base table4.cls table4.reg table4.cls_reg   what the refining box head does
  table5.alpha0 ... alpha0.1 0.2 0.5 1 2 5 10     weight of the refined scores; needs no training, use it with eval.py

`base` rows are plain Mask R-CNN trained for as many steps more. Without a row it is the full model (table3.rm_sara).
`freeze_vanilla` trains the refining heads alone; it needs weights of the same classes, at every scale.

Published box / mask AP on val2017 (maskrcnn-benchmark's Mask R-CNN as the base):

  backbone           Mask R-CNN    RM           RM + SARA     CLS only      REG only
  R50-FPN            37.8 / 34.2   38.6 / 35.0  39.5 / 35.4   38.3 / 35.0   39.1 / 35.1
  R101-FPN           40.1 / 36.1   40.5 / 36.6  41.4 / 37.1   40.4 / 36.8   41.2 / 37.0
  X101-32x8d-FPN     42.2 / 37.8   42.7 / 38.3  43.6 / 38.8   42.7 / 38.6   43.2 / 38.5

  alpha, R50         0: 39.1/35.1  0.1, 0.2: 39.3/35.2  0.5, 1, 2: 39.5/35.4  5: 39.4/35.3  10: 39.2/35.2

All rows with seeds and a report: `python -m jaxseg.reproduce mr_rcnn --workdir=DIR`. See docs/methods/mr_rcnn.md.
"""

import re

from configs import arguments, common, mask_rcnn

_X101 = re.compile(r"(?<![^,])(backbone=)?x101(?![^,])")  # a whole argument
_STEPS, _DROP, _WARMUP = 9000, 6000, 500  # from a trained Mask R-CNN
_ALPHAS = (0, 0.1, 0.2, 0.5, 1, 2, 5, 10)
ROWS = {  # changes of `config.model`; None: plain Mask R-CNN
    "full": {},
    "table3.base": None,
    "table3.rm": {"refine.align": "roi"},
    "table3.rm_sara": {},
    "table4.base": None,
    "table4.cls": {"refine.reg": False},
    "table4.reg": {"refine.cls": False},
    "table4.cls_reg": {},
    **{f"table5.alpha{alpha}": {"test.score_alpha": float(alpha)} for alpha in _ALPHAS},
}


def get_config(arg=None):
    arg = _X101.sub(r"\1x101_32x8d", arg or "")
    own, rest = arguments.take_args(arg, row=tuple(ROWS), end_to_end=False, freeze_vanilla=False)
    more = f"mr_rcnn: {', '.join(ROWS)}, end_to_end, freeze_vanilla"
    config = arguments.config_of(mask_rcnn.get_config, rest, more)
    changes = ROWS[own.row]
    if changes is not None:
        config.method = "mr_rcnn"
        config.model.update_from_flattened_dict(changes)
    if own.freeze_vanilla:
        config.freeze = ("backbone", "fpn", "rpn", "roi_heads/box_head", "roi_heads/mask_head")
    if own.end_to_end and own.freeze_vanilla:
        raise ValueError(
            "Config arguments end_to_end and freeze_vanilla: what is trained from the start cannot be frozen; leave "
            "one of them out."
        )
    if own.end_to_end:
        return config
    scale, _ = arguments.take_args(rest, schedule=("1x", "2x", "3x"), small=False, runlocal=False)
    if scale.small or scale.runlocal:
        _fine_tune_briefly(config)
    elif scale.schedule == "1x":
        _fine_tune(config)
    else:
        raise ValueError(
            f"Config argument {scale.schedule}: from a trained Mask R-CNN this config trains {_STEPS:,} steps, "
            "whatever the schedule. Leave it out and say how long with --config.train.steps=... (and "
            "--config.optim.milestones=...), or train everything with end_to_end."
        )
    # What is frozen must be trained, also where a few steps only show that it runs.
    if own.freeze_vanilla or not scale.runlocal:
        config.needs_heads = common.HEADS
    return config


def _fine_tune(config):
    """The paper's 9,000 steps of 16 images."""
    config.train.batch_size = config.optim.base_batch_size = 16
    config.optim.lr, config.optim.schedule = 0.002, "step"
    config.train.steps, config.optim.milestones = _STEPS, (_DROP,)
    config.optim.warmup_steps = _WARMUP
    config.train.eval_every = 3000


def _fine_tune_briefly(config):
    """The same in proportion: a tenth of the steps at a tenth of the learning rate, the last third at a hundredth."""
    steps = max(min(10, config.train.steps), config.train.steps // 10)
    config.optim.lr *= 0.1
    config.optim.schedule = "step"
    config.optim.milestones = (steps * _DROP // _STEPS,)
    config.train.steps = steps
    config.train.eval_every = min(config.train.eval_every, steps)
    config.train.save_every = min(config.train.save_every, steps)
    config.optim.warmup_steps = min(config.optim.warmup_steps, steps * _WARMUP // _STEPS)
