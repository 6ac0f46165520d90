"""BRefine, Table 7 of the paper, on LVIS v1.

python -m jaxseg.reproduce brefine_lvis --workdir=runs/lvis --data=root=/data/lvis --weights=r50=R50.pth
"""

from configs.tables.table import Row, Table

NOTES = """
1203 classes, 12 epochs of MMDetection with repeat factors (t = 0.001), up to 300 detections an image, scores from
0.0001 on and for BRefine from 0.60. The paper's numbers are the protocol's of LVIS, AP over all, rare, common and
frequent classes, and so are the columns.
"""
COLUMNS = ("mask/AP", "mask/APr", "mask/APc", "mask/APf", "box/AP")


def get_table() -> Table:
    return Table(
        title="BRefine on LVIS",
        source="BRefine: achieving high-quality instance segmentation, Sensors 2022, 22(17), 6499.",
        notes=NOTES,
        columns=COLUMNS,
        baseline="mask_rcnn",
        rows=tuple(
            Row(
                name=name,
                config=f"configs/brefine.py:recipe=brefine,r50,{row},pretrained",
                label=label,
                weights="r50",
                published=dict(zip(COLUMNS, published, strict=True)),
                source="Table 7",
            )
            for name, row, label, published in (
                ("mask_rcnn", "table7.base", "Mask R-CNN", (21.7, 9.6, 20.9, 27.9, 22.5)),
                ("brefine", "table7.brefine", "BRefine", (25.9, 18.2, 25.2, 30.8, 26.5)),
            )
        ),
    )
