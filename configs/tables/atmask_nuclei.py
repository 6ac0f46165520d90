"""ATMask R-CNN on cell nuclei, on two CPU cores.

  python -m jaxseg.reproduce atmask_nuclei --workdir=runs/atmask --data=root=DIR --rows=mask_rcnn,k2
  python -m jaxseg.reproduce atmask_nuclei --workdir=runs/atmask --data=root=DIR --seeds=1

Three seeds of Mask R-CNN and of the full model, one of everything else: the rows of the paper's Table 3, k of 1, 2, 10
and 50. Model, data and schedule are those of `maskplus_nuclei`. The settings were written down before the first run,
and nothing is chosen on the validation images.

What thresholds are pooled from, P2 or a level by the RoI's size, cannot be told apart here: nuclei are so small that
all of them belong to P2 (of 23,000 one is larger than 112 pixels). So one row, `k1`, is the last two of Table 3.
"""

from configs.tables.maskplus_nuclei import SETTINGS
from configs.tables.table import Row, Table


def get_table() -> Table:
    def row(name, arg, label, **changes):
        overrides = SETTINGS | {f"model.atmask.{key}": value for key, value in changes.items()}
        config = f"configs/atmask_rcnn.py:r18,{arg}"
        return Row(name=name, config=config, label=label, overrides=overrides)

    return Table(
        title="ATMask R-CNN on nuclei",
        source="The settings of this project; the paper has no such table.",
        baseline="mask_rcnn",
        scale="small",
        columns=("mask/AP", "mask/AP50", "mask/AP75", "box/AP"),
        notes=(
            "A small model and short training: this tells what the parts do here, and nothing about COCO. One seed "
            "cannot tell a row from chance: the spread of Mask R-CNN over its seeds is the yardstick."
        ),
        rows=(
            row("mask_rcnn", "table3.base", "Mask R-CNN"),
            row("threshold", "table3.threshold", "thresholds, k=1"),
            row("k1", "table3.p2", "thresholds, P2T and T2P, k=1"),
            row("k2", "full", "the same, k=2"),
            row("k10", "full", "the same, k=10", k=10.0),
            row("k50", "full", "the same, k=50", k=50.0),
        ),
    )
