"""ATMask R-CNN, Tables 1 to 5 of the paper, on COCO 2017.

  python -m jaxseg.reproduce atmask_rcnn --workdir=runs/atmask --data=coco,root=/data/coco \
      --weights=r50_caffe=R-50.pkl,r101_caffe=R-101.pkl

Every row is trained by the paper's recipe (configs/recipes.py). Rows that stand in several of the paper's tables are
here once: `--rows='mask_rcnn_r50,table3.*'` is Table 3, `--rows='table3.p2_r50,table3.fusion_r50'` Table 4,
`--rows='table3.threshold_r50,table5.*,table3.fusion_r50'` Table 5.
"""

from configs.tables.table import Row, Table

NOTES = """
Rows of ResNet-50 are trained for 90,000 steps of 12 images from weights of the backbone, and share one baseline. The
paper's ResNet-101 starts from a trained Faster R-CNN that is not published; here from the Mask R-CNN of the same table,
with everything but the mask head frozen (`atmask_r101`), or the RPN and the box head (`atmask_heads_r101`). Their
baselines are that Mask R-CNN, trained on in the same way, so that more training of masks counts for nothing.

Published numbers are of val2017. Rows of Tables 3 to 5 have k=1, those of Tables 1 and 2 k=2. What the paper leaves
open, and how it is read here: docs/methods/atmask_rcnn.md.
"""

COLUMNS = ("mask/AP", "mask/AP50", "mask/AP75", "box/AP")
_R50 = {  # row of the config: label, numbers, source
    "table3.threshold": (
        "thresholds",
        (35.0, 55.6, 37.9, 38.1),
        "Table 3; Table 5, without fusion",
    ),
    "table5.p2t": ("thresholds, P2T", (35.5, 56.2, 38.3, 38.2), "Table 5"),
    "table3.fusion": ("thresholds, P2T and T2P", (35.7, 56.2, 38.5, 38.1), "Tables 3, 4 and 5"),
    "table3.p2": ("thresholds from P2, P2T and T2P", (35.9, 56.2, 38.9, 38.1), "Tables 3 and 4"),
    "table2.atmask": ("the same, k=2", (36.1, 56.2, 39.0), "Table 2"),
    "bmask": ("BMask R-CNN", (), ""),
}


def get_table() -> Table:
    return Table(
        title="ATMask R-CNN",
        source="ATMask R-CNN: supervised adaptive threshold network for instance segmentation.",
        notes=NOTES,
        columns=COLUMNS,
        baseline="mask_rcnn_r50",
        rows=(
            _base("r50", (34.8, 55.6, 37.3, 38.1), "Tables 2 and 3"),
            *(
                Row(
                    name=f"{name}_r50",
                    config=f"configs/atmask_rcnn.py:recipe=atmask,r50,{name},pretrained",
                    label=label,
                    weights="r50_caffe",
                    published=_numbers(numbers),
                    source=source,
                )
                for name, (label, numbers, source) in _R50.items()
            ),
            _base("r101", (35.9, 58.6, 38.2), "Table 2"),
            *(row for freeze in ("all_but_mask", "heads") for row in _frozen(freeze)),
        ),
    )


def _base(backbone: str, numbers: tuple[float, ...], source: str) -> Row:
    return Row(
        name=f"mask_rcnn_{backbone}",
        config=f"configs/atmask_rcnn.py:recipe=atmask,{backbone},table2.base,pretrained",
        label=f"Mask R-CNN, {backbone}",
        weights=f"{backbone}_caffe",
        baseline=f"mask_rcnn_{backbone}",
        published=_numbers(numbers),
        source=source,
    )


def _frozen(freeze: str) -> tuple[Row, Row]:
    """Mask R-CNN and ATMask R-CNN that go on from the table's Mask R-CNN."""
    short = {"all_but_mask": "", "heads": "_heads"}[freeze]
    paper = (37.5, 59.4, 40.4) if freeze == "all_but_mask" else ()
    base = f"mask_rcnn{short}_more_r101"
    return tuple(
        Row(
            name=name,
            config=f"configs/atmask_rcnn.py:recipe=atmask,r101,{row},pretrained,freeze={freeze}",
            label=f"{label}, r101, freeze={freeze}",
            start_from="mask_rcnn_r101",
            baseline=base,
            published=_numbers(published),
            source="Table 2" if published else "",
        )
        for name, row, label, published in (
            (base, "table2.base", "Mask R-CNN, continued", ()),
            (f"atmask{short}_r101", "table2.atmask", "thresholds, k=2", paper),
        )
    )


def _numbers(values: tuple[float, ...]) -> dict[str, float]:
    return dict(zip(COLUMNS, values, strict=False))
