"""Mask Refining R-CNN (Ding et al. 2019): a trained Mask R-CNN whose masks refine its boxes, and boxes its masks.

  python train.py --config=configs/mr_rcnn.py:r50,coco,root=/data/coco --workdir=runs/mr --config.init_from=runs/r50

It starts from a trained Mask R-CNN (a work directory, or a file of another library's, with that library's argument) and
trains 9,000 steps of 16 images at 0.002, a tenth of that from step 6,000. The refining heads begin as copies of the
trained ones. Without trained heads to start from it is refused, but with `runlocal`, whose few steps only show that it
runs. `end_to_end` trains everything from pretrained backbone weights for 1x instead.

Arguments: all of configs/mask_rcnn.py (`x101` is `x101_32x8d`), and the rows of the paper's ablations:

  table3.base table3.rm table3.rm_sara        refining module without and with Shape-aware RoIAlign
  table4.base table4.cls table4.reg table4.cls_reg   what the refining box head does
  table5.alpha0 ... alpha0.1 0.2 0.5 1 2 5 10     weight of the refined scores; needs no training, use it with eval.py

`base` rows are plain Mask R-CNN trained for as many steps more. Without a row it is the full model (table3.rm_sara).
`freeze_vanilla` trains the refining heads alone; it needs weights of the same classes.

Published box / mask AP on val2017 (maskrcnn-benchmark's Mask R-CNN as the base):

  backbone           Mask R-CNN    RM           RM + SARA     CLS only      REG only
  R50-FPN            37.8 / 34.2   38.6 / 35.0  39.5 / 35.4   38.3 / 35.0   39.1 / 35.1
  R101-FPN           40.1 / 36.1   40.5 / 36.6  41.4 / 37.1   40.4 / 36.8   41.2 / 37.0
  X101-32x8d-FPN     42.2 / 37.8   42.7 / 38.3  43.6 / 38.8   42.7 / 38.6   43.2 / 38.5

  alpha, R50         0: 39.1/35.1  0.1, 0.2: 39.3/35.2  0.5, 1, 2: 39.5/35.4  5: 39.4/35.3  10: 39.2/35.2

All rows with seeds and a report: `python -m jaxseg.reproduce mr_rcnn --workdir=DIR`. See docs/methods/mr_rcnn.md.
"""

from configs import common, mask_rcnn

_ALIASES = {"x101": "x101_32x8d", "backbone=x101": "backbone=x101_32x8d"}
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
    words = [_ALIASES.get(word, word) for word in (arg or "").split(",")]
    spec = dict(row=tuple(ROWS), end_to_end=False, freeze_vanilla=False)
    own, rest = common.take_args(",".join(words), **spec)
    try:
        config = mask_rcnn.get_config(rest)
    except ValueError as error:
        if not str(error).startswith("Unknown config argument"):
            raise
        raise ValueError(
            f"{error} And of mr_rcnn: {', '.join(ROWS)}, end_to_end, freeze_vanilla."
        ) from None
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
    if not own.end_to_end:
        scale, _ = common.take_args(rest, small=False, runlocal=False)
        (_fine_tune_briefly if scale.small or scale.runlocal else _fine_tune)(config)
        config.needs_heads = not scale.runlocal
    return config


def _fine_tune(config):
    """The paper's 9,000 steps of 16 images."""
    config.train.batch_size = config.optim.base_batch_size = 16
    config.optim.lr, config.optim.schedule = 0.002, "step"
    config.train.steps, config.optim.milestones = 9000, (6000,)
    config.optim.warmup_steps = 500
    config.train.eval_every = 3000


def _fine_tune_briefly(config):
    """The same in proportion: a tenth of the steps at a tenth of the learning rate, the last third at a hundredth."""
    steps = max(min(10, config.train.steps), config.train.steps // 10)
    config.optim.lr *= 0.1
    config.optim.schedule = "step"
    config.optim.milestones = (2 * steps // 3,)
    config.train.steps = steps
    config.train.eval_every = min(config.train.eval_every, steps)
    config.train.save_every = min(config.train.save_every, steps)
    config.optim.warmup_steps = min(config.optim.warmup_steps, steps // 18)
