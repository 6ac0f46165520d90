"""BRefine, Table 8 of the paper, on Cityscapes.

  python -m jaxseg.reproduce brefine_cityscapes --workdir=runs/cityscapes --data=root=/data/cityscapes \
      --weights=mask_rcnn_coco=runs/coco/mask_rcnn,brefine_coco=runs/coco/brefine
"""

from configs.tables.brefine import numbers_of
from configs.tables.table import Row, Table

NOTES = """
8 epochs in each of which every image comes eight times, from models trained on COCO: work directories of
`mask_rcnn_r50` and `brefine_r50` of the table brefine. Their class layers are taken by name, and for `rider`, which
COCO lacks, those of `person`. "mask" is the protocol of Cityscapes; the paper's sizes are of COCO's, "mask_coco", and
so its numbers stand there.
"""

PUBLISHED = ("mask_coco/AP", "mask_coco/APs", "mask_coco/APm", "mask_coco/APl", "box/AP")


def get_table() -> Table:
    return Table(
        title="BRefine on Cityscapes",
        source="BRefine: achieving high-quality instance segmentation, Sensors 2022, 22(17), 6499.",
        notes=NOTES,
        columns=("mask/AP", "mask/AP50", *PUBLISHED),
        baseline="mask_rcnn",
        rows=tuple(
            Row(
                name=name,
                config=f"configs/brefine.py:recipe=brefine,r50,{row},pretrained",
                label=label,
                weights=f"{name}_coco",
                published=numbers_of(numbers, PUBLISHED),
                source="Table 8",
            )
            for name, row, label, numbers in (
                ("mask_rcnn", "table8.base", "Mask R-CNN", (36.5, 12.7, 33.2, 57.2, 40.9)),
                ("brefine", "table8.brefine", "BRefine", (40.0, 14.1, 37.3, 63.9, 44.3)),
            )
        ),
    )
