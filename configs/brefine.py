"""BRefine: masks of 56x56 in stages, Rank & Sort losses, and a mask loss that tells its inner edge; each alone.

  python train.py --config=configs/brefine.py:recipe=brefine,r50,coco,root=/data/coco --workdir=runs/brefine \
      --config.init_from=R50.pth

`recipe=brefine` is the paper's own training (configs/recipes.py), `2x` its longer one. Arguments: all of
configs/mask_rcnn.py, and

  table1.base table1.brefine                        plain Mask R-CNN; BRefine. With r50|r101 and 1x|2x; Table 2 too
  table3.1 table3.2 table3.3                        stages
  table3.literal1 table3.literal2 table3.literal3   the same without the residual-aware module, as its text has it
  table4.d1 table4.d12 table4.d123 table4.d123_res  residual-aware module
  table5.multistage table5.dice table5.focal table5.ce_dice     the head with other mask losses, Mask R-CNN's detection
  table5.rs_multistage table5.rs_mask_rcnn          Rank & Sort with cross-entropy; with the FCN head and Dice
  table6.rs_multistage table6.brefine               without and with the boundary term
  table7.base table7.brefine                        LVIS, unless other data are asked for
  table8.base table8.brefine                        Cityscapes, from a model of COCO; likewise
  fig1.multi fig1.p2                                what the FCN head is pooled from
  fig2.14_14 fig2.14_28 fig2.28_28 fig2.28_56       its size, and that of its masks

Without a row it is BRefine. Every switch is a setting: `model.brefine`, `model.mask_head` and `model.criterion` in
configs/common.py. The head, the mask losses and the criterion work in every method:

  python train.py --config=configs/mr_rcnn.py:ranked,... --config.model.mask_head.name=brefine \
      --config.model.mask_head.loss=brce

and `ranked`, an argument of configs/mask_rcnn.py and so of every method, gives the criterion: `fig1.p2,ranked`. Its
settings are those of the paper's code: box deltas of the RPN in units of 0.1 and 0.2, its losses with a weight of 0.2,
and detections from a score of 0.40 on (0.60 for LVIS), since scores are high; 0.05 is slower, and 0.01 AP at best.

Published mask AP, APs, APm, APl, and box AP on val2017, 1x:

  Mask R-CNN R50    34.8 18.7 37.9 47.4   38.3      BRefine R50    37.8 20.8 40.9 52.4   40.4
  Mask R-CNN R101   36.2 19.1 40.0 49.5   40.1      BRefine R101   39.1 21.6 43.1 54.6   42.2

All rows with seeds and a report: `python -m jaxseg.reproduce brefine --workdir=DIR`. The page of the method is
docs/methods/brefine.md.
"""

from configs import arguments, mask_rcnn

_BREFINE = {"name": "brefine", "loss": "brce", "ranked": True}
_MULTISTAGE = {"name": "brefine"}


def _with(changes, **more):
    return {**changes, **more}


ROWS = {  # name, loss, source, pool of the mask head; keys of `model.brefine`; `ranked`; `mask_out`; `data`
    "full": _BREFINE,
    "table1.base": {},
    "table1.brefine": _BREFINE,
    **{f"table3.{n}": _with(_BREFINE, stages=n) for n in (1, 2, 3)},
    **{f"table3.literal{n}": _with(_BREFINE, stages=n, ram="none") for n in (1, 2, 3)},
    **{f"table4.{ram}": _with(_BREFINE, ram=ram) for ram in ("d1", "d12", "d123", "d123_res")},
    "table5.multistage": _MULTISTAGE,
    **{f"table5.{loss}": _with(_MULTISTAGE, loss=loss) for loss in ("dice", "focal", "ce_dice")},
    "table5.rs_multistage": _with(_MULTISTAGE, ranked=True),
    "table5.rs_mask_rcnn": {"loss": "dice", "ranked": True},
    "table6.rs_multistage": _with(_MULTISTAGE, ranked=True),
    "table6.brefine": _BREFINE,
    "table7.base": {"data": "lvis"},
    "table7.brefine": _with(_BREFINE, data="lvis"),
    "table8.base": {"data": "cityscapes"},
    "table8.brefine": _with(_BREFINE, data="cityscapes"),
    "fig1.multi": {},
    "fig1.p2": {"source": "P2"},
    "fig2.14_14": {"mask_out": "pooled"},
    "fig2.14_28": {},
    "fig2.28_28": {"pool": 28, "mask_out": "pooled"},
    "fig2.28_56": {"pool": 28},
}
_HEAD = ("name", "loss", "source", "pool")
_DATA = ("auto", "own", "coco", "lvis", "cityscapes", "shapes")


def get_config(arg=None):
    own, rest = arguments.take_args(arg, row=tuple(ROWS))
    changes = dict(ROWS[own.row])
    given, _ = arguments.take_args(rest, data=_DATA)
    data = changes.pop("data", "")
    if given.data != "auto":
        data = given.data
    words = (rest, data, "ranked" if changes.pop("ranked", False) else "")
    more = f"brefine: {', '.join(ROWS)}"
    config = arguments.config_of(mask_rcnn.get_config, ",".join(filter(None, words)), more)
    model = config.model
    if "mask_out" in changes:
        model.maskplus.mask_out = changes.pop("mask_out")
    for key, value in changes.items():
        (model.mask_head if key in _HEAD else model.brefine)[key] = value
    return config
