"""MaskPlus (WACV 2020): five techniques for the mask branch, on Mask R-CNN, and MaskPlus+, on Cascade Mask R-CNN.

  python train.py --config=configs/maskplus.py:recipe=maskplus,r101,2x,coco,root=/data/coco --workdir=runs/maskplus \
      --config.init_from=resnet101.pth
  python train.py --config=configs/maskplus.py:recipe=maskplus,r101,2x,coco,root=/data/coco,maskplus_plus \
      --workdir=runs/plus --config.init_from=resnet101.pth

Arguments: all of configs/mask_rcnn.py, of which `recipe=maskplus` is the paper's own training (2x: its 360,000 steps of
8 images; MaskPlus+ 540,000); then

  parts=...    some of context, pyramid, boundary, quasi, bias, with + between them: parts=context+quasi
  cascade      on Cascade Mask R-CNN

or one of the rows of the paper's tables, by name; without either all five parts:

  table1.base table1.cf_256_256 table1.cf_256_256_256 table1.cf_720_512_512_256    contextual fusion
  table1.cf_512_256_256                                                            the stack of the paper's text
  table2.base table2.dpm                                                           deconvolutional pyramid
  table3.base table3.original table3.improved                                      boundary refinement
  table4.base table4.half table4.qml_half table4.qml_double                        quasi-multitask learning
  table5.base table5.bt (= table6.base, table6.bt)                                 biased training
  table7.base, table7.maskplus (all five), maskplus_plus (= table7.maskplus_plus: on a cascade, 1.5 times as long)

The techniques are settings of every method, `--config.model.maskplus.*` (configs/common.py): Mask Refining R-CNN with
contextual fusion is `--config=configs/mr_rcnn.py:r50 --config.model.maskplus.context="(720,512,512,256)"`.

Published mask AP on val2017, R50-FPN, 2x (Tables 1 to 6), Mask R-CNN 35.1; box AP 38.3:

  contextual fusion 256-256 35.3, 256-256-256 35.4, 720-512-512-256 35.5     deconvolutional pyramid 35.4
  boundary refinement, original 35.2, improved 35.5                          biased training 35.4 (box 38.6)
  quasi-multitask learning 0.5x 35.4, 2x 35.2; a mask of 14x14 (0.5x) alone 34.3

On test-dev2017, R101-FPN (Table 7): Mask R-CNN 36.9, MaskPlus 38.1, MaskPlus+ 40.9.

All rows with seeds and a report: `python -m jaxseg.reproduce maskplus --workdir=DIR`. See docs/methods/maskplus.md.
"""

from configs import arguments, cascade_mask_rcnn, mask_rcnn

PARTS = {  # changes of `config.model.maskplus`
    "context": {"context": (720, 512, 512, 256)},
    "pyramid": {"pyramid": "pooled"},
    "boundary": {"boundary": "improved"},
    "quasi": {"quasi": "half"},
    "bias": {"alpha": 1.5},
}
_ALL = {key: value for part in PARTS.values() for key, value in part.items()}
ROWS = {
    "all": _ALL,
    "table1.base": {},
    "table1.cf_256_256": {"context": (256, 256)},
    "table1.cf_256_256_256": {"context": (256, 256, 256)},
    "table1.cf_512_256_256": {"context": (512, 256, 256)},  # of the text, not in the table
    "table1.cf_720_512_512_256": PARTS["context"],
    "table2.base": {},
    "table2.dpm": PARTS["pyramid"],
    "table3.base": {},
    "table3.original": {"boundary": "original"},
    "table3.improved": PARTS["boundary"],
    "table4.base": {},
    "table4.half": {"mask_out": "pooled"},
    "table4.qml_half": PARTS["quasi"],
    "table4.qml_double": {"quasi": "double"},
    "table5.base": {},
    "table5.bt": PARTS["bias"],
    "table6.base": {},
    "table6.bt": PARTS["bias"],
    "table7.base": {},
    "table7.maskplus": _ALL,
    "table7.maskplus_plus": _ALL,
    "maskplus_plus": _ALL,
}


def get_config(arg=None):
    own, rest = arguments.take_args(arg, row=tuple(ROWS), parts="all", cascade=False)
    if own.parts != "all" and own.row != "all":
        raise ValueError(
            f"Config arguments {own.row} and parts={own.parts}: a row has parts of its own; leave one of them out."
        )
    plus = own.row.endswith("maskplus_plus")
    base = cascade_mask_rcnn if plus or own.cascade else mask_rcnn
    more = f"maskplus: {', '.join(ROWS)}, parts={'+'.join(PARTS)}, cascade"
    config = arguments.config_of(base.get_config, rest, more)
    changes = ROWS[own.row] if own.parts == "all" else _parts(own.parts)
    channels = config.model.fpn.channels
    if changes.get("context"):  # small models have less channels
        changes = {**changes, "context": _fitted(changes["context"], channels)}
    config.model.maskplus.update(changes)
    if plus:
        config.model.cascade.mask_heads = 1  # whatever the conventions
    scale, _ = arguments.take_args(rest, runlocal=False)
    if plus and not scale.runlocal:
        config.train.steps = 3 * config.train.steps // 2
        config.optim.milestones = tuple(3 * step // 2 for step in config.optim.milestones)
    return config


def _parts(words: str) -> dict:
    unknown = [word for word in words.split("+") if word not in PARTS]
    if unknown:
        raise ValueError(
            f"Config argument parts={words!r}: {', '.join(map(repr, unknown))} is not a part; allowed are "
            f"{', '.join(PARTS)}, with + between them."
        )
    return {key: value for word in words.split("+") for key, value in PARTS[word].items()}


def _fitted(widths: tuple[int, ...], channels: int) -> tuple[int, ...]:
    """The stack in proportion to the pyramid's channels, 256 in the paper."""
    return tuple(width * channels // 256 for width in widths)
