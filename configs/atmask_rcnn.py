"""ATMask R-CNN: Mask R-CNN whose mask head learns a threshold for every pixel; and BMask R-CNN, its model.

  python train.py --config=configs/atmask_rcnn.py:recipe=atmask,r50,coco,root=/data/coco --workdir=runs/atmask \
      --config.init_from=R-50.pkl
  python train.py --config=configs/atmask_rcnn.py:recipe=atmask,r101,coco,root=/data/coco --workdir=runs/atmask101 \
      --config.init_from=FASTER_RCNN.pkl

`recipe=atmask` is the paper's own training (configs/recipes.py). Arguments: all of configs/mask_rcnn.py, and

  table3.base table3.threshold table3.fusion table3.p2       plain Mask R-CNN; T; P2T and T2P; T from P2 alone
  table4.p2 table4.multi                                     what T is pooled from
  table5.none table5.p2t table5.p2t_t2p                      fusion
  table2.base table2.atmask                                  of Tables 1 and 2
  bmask                                                      Boundary-preserving Mask R-CNN
  freeze=...   none | all_but_mask | heads; the default is the paper's: all_but_mask for `recipe=atmask,r101`, else none

Rows of Tables 3 to 5 have k=1, as in the paper; without a row it is the full model with k=2. Every switch is a setting:
`model.atmask` in configs/common.py, for example --config.model.atmask.k=10. The head works in other methods too:
--config.model.mask_head.name=atmask.

`freeze` goes on from a trained detector, as the paper's ResNet-101 does: a work directory, or a file of a Mask R-CNN or
a Faster R-CNN. `all_but_mask` trains the mask head alone, for its own losses. `heads` freezes the RPN and the box head,
whose losses stay on, since the backbone trains. Both train 50,000 steps of 8 images at 0.02, a tenth of it from step
30,000 and a hundredth from 40,000, and are refused without trained weights of what is frozen.

Published mask AP, AP50 and AP75 on val2017:

  Table 2   Mask R-CNN R50    34.8 55.6 37.3      ATMask R50 (k=2)    36.1 56.2 39.0
            Mask R-CNN R101   35.9 58.6 38.2      ATMask R101 (k=2)   37.5 59.4 40.4
  Table 3   threshold         35.0 55.6 37.9      + fusion            35.7 56.2 38.5
            + P2              35.9 56.2 38.9
  Table 5   P2T               35.5 56.2 38.3

All rows with seeds and a report: `python -m jaxseg.reproduce atmask_rcnn --workdir=DIR`. The page of the method is
docs/methods/atmask_rcnn.md.
"""

from configs import arguments, backbones, mask_rcnn, recipes

_K1 = {"k": 1.0}
_PLAIN = _K1 | {"thr_source": "multi", "p2t": False, "t2p": False}
_FUSED = _K1 | {"thr_source": "multi"}
BMASK = {"fuse": "sum", "thr_target": "boundary", "lambda_bin": 0.0, "infer_map": "P"}
ROWS = {  # changes of `config.model.atmask`; None: the FCN head
    "full": {},
    "table2.base": None,
    "table2.atmask": {},
    "table3.base": None,
    "table3.threshold": _PLAIN,
    "table3.fusion": _FUSED,
    "table3.p2": _K1,
    "table4.p2": _K1,
    "table4.multi": _FUSED,
    "table5.none": _PLAIN,
    "table5.p2t": _FUSED | {"t2p": False},
    "table5.p2t_t2p": _FUSED,
    "bmask": BMASK,
}
FREEZE = ("auto", "none", "all_but_mask", "heads")
_HEADS = ("rpn", r"roi_heads/(refine_)?box_head(_\d+)?")
_DETECTION = (
    "rpn_objectness",
    "rpn_box",
    "classification",
    "box",
    "refine_classification",
    "refine_box",
)  # losses
_SHARE = 5 / 9  # of the steps of Mask R-CNN that its schedule has


def get_config(arg=None):
    own, rest = arguments.take_args(arg, row=tuple(ROWS), freeze=FREEZE)
    more = f"atmask_rcnn: {', '.join(ROWS)}, freeze={'|'.join(FREEZE)}"
    config = arguments.config_of(mask_rcnn.get_config, rest, more)
    changes = ROWS[own.row]
    if changes is not None:
        config.model.mask_head.name = "atmask"
        config.model.atmask.update(changes)
    freeze = own.freeze
    if freeze == "auto":
        freeze = "all_but_mask" if _is_papers_r101(rest) and changes is not None else "none"
    if freeze == "heads":
        config.freeze = (*config.freeze, *_HEADS)
    if freeze == "all_but_mask":
        config.freeze = ("backbone", "fpn", *_HEADS)
        config.model.criterion.weights.update(dict.fromkeys(_DETECTION, 0.0))
    if freeze != "none":
        config.needs_heads = ("rpn", "roi_heads/box_head")  # what is frozen must be trained
        _set_schedule(config, rest)
    return config


def _is_papers_r101(rest):
    words = {"recipe": ("none", *recipes.TABLE), "backbone": backbones.NAMES}
    found, _ = arguments.take_args(rest, **words)
    return found.recipe == "atmask" and found.backbone == "r101"


def _set_schedule(config, rest):
    """The paper's 50,000 steps of 8 images from a trained detector, or the same in proportion."""
    scale, _ = arguments.take_args(rest, schedule=("1x", "2x", "3x"), small=False, runlocal=False)
    config.optim.schedule = "step"
    if scale.small or scale.runlocal:
        config.train.steps = round(_SHARE * config.train.steps)
        for key in ("eval_every", "save_every"):
            config.train[key] = min(config.train[key], config.train.steps)
        config.optim.milestones = (config.train.steps * 3 // 5, config.train.steps * 4 // 5)
        return
    if scale.schedule != "1x":
        raise ValueError(
            f"Config argument {scale.schedule}: from a trained detector this config trains 50,000 steps, whatever the "
            "schedule. Leave it out and say how long with --config.train.steps=... (and "
            "--config.optim.milestones=...), or train everything with freeze=none."
        )
    config.train.batch_size = config.optim.base_batch_size = 8
    config.optim.lr = 0.02
    config.train.steps, config.optim.milestones = 50_000, (30_000, 40_000)
