"""BRefine, Tables 1 to 6 of the paper, and its Figures 1 and 2, on COCO 2017.

  python -m jaxseg.reproduce brefine --workdir=runs/brefine --data=coco,root=/data/coco \
      --weights=r50=R50.pth,r101=R101.pth

Every row is trained by the paper's recipe (configs/recipes.py): 12 epochs of 6 images a step, or 24 (`2x`). Rows that
stand in several tables are here once: `--rows='mask_rcnn_*,brefine_*'` is Table 1, `--rows='table3.*,brefine_r50'`
Table 3, `--rows='table4.*,brefine_r50'` Table 4, `--rows='table5.*'` Table 5. Tables 7 and 8 are of other data:
brefine_lvis and brefine_cityscapes.
"""

from configs.tables.table import Row, Table

NOTES = """
Published numbers are of val2017. The text of the paper has the residual-aware module missing in Table 3, whose last
row is that of the full model in every column: the rows are full models here, and `table3.literal*` are those of the
text. RS Mask R-CNN, which the text announces and Table 5 lacks, has the numbers of its own authors' code. Figures 1
and 2 have no numbers: what they claim is that P2 alone is as good as all levels, and that larger masks help large
objects and harm others where cross-entropy is all that they are trained by.

What the paper leaves open, and how it is read here: docs/methods/brefine.md.
"""

COLUMNS = ("mask/AP", "mask/APs", "mask/APm", "mask/APl", "box/AP")
_TABLE1 = {  # Mask R-CNN, BRefine
    "r50": ((34.8, 18.7, 37.9, 47.4, 38.3), (37.8, 20.8, 40.9, 52.4, 40.4)),
    "r50_2x": ((35.5, 18.9, 38.9, 48.5, 38.8), (38.4, 21.3, 41.7, 53.4, 40.9)),
    "r101": ((36.2, 19.1, 40.0, 49.5, 40.1), (39.1, 21.6, 43.1, 54.6, 42.2)),
    "r101_2x": ((36.7, 19.6, 40.6, 51.5, 40.2), (39.6, 21.9, 43.7, 56.4, 42.5)),
}
_ROWS = {  # R50, 1x
    "table3.1": ("one stage, 14x14", (36.5, 19.8, 38.4, 48.1, 39.9), "Table 3"),
    "table3.2": ("two stages, 28x28", (37.0, 20.2, 39.5, 49.8, 40.1), "Table 3"),
    "table3.literal1": ("one stage, without residual-aware module", (), ""),
    "table3.literal2": ("two stages, without", (), ""),
    "table3.literal3": ("three stages, without", (), ""),
    "table4.d1": ("one 3x3 convolution", (36.2, 19.4, 38.4, 49.1, 39.8), "Table 4"),
    "table4.d12": ("two of them, dilations 1 and 2", (36.7, 19.8, 39.2, 50.2, 40.0), "Table 4"),
    "table4.d123": ("three of them", (37.1, 20.2, 39.9, 51.1, 40.2), "Table 4"),
    "table5.multistage": ("stages", (35.4, 16.2, 38.0, 52.0, 38.6), "Table 5"),
    "table5.dice": ("stages, Dice", (35.7, 16.5, 38.7, 51.7, 38.7), "Table 5"),
    "table5.focal": ("stages, focal", (35.8, 16.7, 38.9, 51.9, 38.7), "Table 5"),
    "table5.ce_dice": (
        "stages, cross-entropy and Dice",
        (36.0, 16.9, 38.9, 51.8, 38.9),
        "Table 5",
    ),
    "table5.rs_mask_rcnn": ("RS Mask R-CNN", (36.4, None, None, None, 40.0), "Oksuz et al. 2021"),
    "table5.rs_multistage": (
        "stages, Rank & Sort",
        (37.3, 20.5, 40.2, 51.4, 39.9),
        "Tables 5 and 6",
    ),
    "fig1.p2": ("Mask R-CNN, masks from P2", (), ""),
    "fig2.14_14": ("Mask R-CNN, 14x14 masks", (), ""),
    "fig2.28_28": ("Mask R-CNN, 28x28 from 28x28", (), ""),
    "fig2.28_56": ("Mask R-CNN, 56x56 from 28x28", (), ""),
}


def get_table() -> Table:
    return Table(
        title="BRefine",
        source="BRefine: achieving high-quality instance segmentation, Sensors 2022, 22(17), 6499.",
        notes=NOTES,
        columns=COLUMNS,
        baseline="mask_rcnn_r50",
        rows=(
            *(row for name in _TABLE1 for row in _pair(name)),
            *(
                Row(
                    name=f"{name}_r50",
                    config=f"configs/brefine.py:recipe=brefine,r50,{name},pretrained",
                    label=label,
                    weights="r50",
                    published=numbers_of(numbers),
                    source=source,
                )
                for name, (label, numbers, source) in _ROWS.items()
            ),
        ),
    )


def _pair(name: str) -> tuple[Row, Row]:
    backbone, _, schedule = name.partition("_")
    words = f"recipe=brefine,{backbone},{schedule or '1x'}"
    return tuple(
        Row(
            name=f"{short}_{name}",
            config=f"configs/brefine.py:{words},{row},pretrained",
            label=f"{label}, {backbone}, {schedule or '1x'}",
            weights=backbone,
            baseline=f"mask_rcnn_{name}",
            published=numbers_of(numbers),
            source="Table 1",
        )
        for short, row, label, numbers in (
            ("mask_rcnn", "table1.base", "Mask R-CNN", _TABLE1[name][0]),
            ("brefine", "table1.brefine", "BRefine", _TABLE1[name][1]),
        )
    )


def numbers_of(values: tuple[float | None, ...], columns=COLUMNS) -> dict[str, float]:
    """Published values by column; None and what is missing at the end was not published."""
    pairs = zip(columns, values, strict=False)
    return {column: value for column, value in pairs if value is not None}
