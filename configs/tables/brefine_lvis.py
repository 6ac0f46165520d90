"""BRefine, Table 7 of the paper, on LVIS v1.

python -m jaxseg.reproduce brefine_lvis --workdir=runs/lvis --data=root=/data/lvis --weights=r50=R50.pth
"""

from configs.tables.table import Row, Table

NOTES = """
1203 classes, 12 epochs of MMDetection with repeat factors (t = 0.001), up to 300 detections an image, scores from
0.0001 on and for BRefine from 0.60. The paper's numbers are the protocol's of LVIS, AP over all, rare, common and
frequent classes; columns here are AP over all classes.
"""


def get_table() -> Table:
    return Table(
        title="BRefine on LVIS",
        source="BRefine: achieving high-quality instance segmentation, Sensors 2022, 22(17), 6499.",
        notes=NOTES,
        columns=("mask/AP", "box/AP"),
        baseline="mask_rcnn",
        rows=tuple(
            Row(
                name=name,
                config=f"configs/brefine.py:recipe=brefine,r50,{row},pretrained",
                label=label,
                weights="r50",
                published=published,
                source="Table 7",
            )
            for name, row, label, published in (
                ("mask_rcnn", "table7.base", "Mask R-CNN", {"mask/AP": 21.7, "box/AP": 22.5}),
                ("brefine", "table7.brefine", "BRefine", {"mask/AP": 25.9, "box/AP": 26.5}),
            )
        ),
    )
