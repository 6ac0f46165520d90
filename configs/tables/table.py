"""What a table of a paper is: rows to train or evaluate, and the numbers that were published for them.

A table is a file `configs/tables/NAME.py` (or any .py file) with a function `get_table() -> Table`:

    from configs.tables.table import Row, Table

    def get_table():
        return Table(
            title="My head against the usual one",
            baseline="plain",
            rows=(
                Row(name="plain", config="configs/mask_rcnn.py:r50,1x", weights="r50"),
                Row(name="deep", config="configs/mask_rcnn.py:r50,1x", weights="r50",
                    overrides={"model.mask_head.convs": 8}),
            ),
        )

`python -m jaxseg.reproduce NAME --workdir=DIR` runs it; docs/reproduce.md is the guide. What is wrong in a table (a row
that is not there, a key that no config has) is told by that program before anything is trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

COLUMNS = ("mask/AP", "mask/AP50", "mask/AP75", "mask/APs", "mask/APm", "mask/APl", "box/AP")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table: a model that is trained, or a checkpoint of another row that is evaluated differently.

    Attributes:
      name: letters, digits, `_`, `.` and `-`; what `--rows` takes and what the row's folder is called.
      config: a config file with its arguments, as `train.py --config=` takes it, but without what says where the data
        is and how large the run is: `--data` and `--scale` add that. Empty for rows that only evaluate.
      label: what the row is called in the report, for example as in the paper; `name` if it is empty.
      overrides: keys of the config and their values: {"model.mask_head.convs": 2} gives
        --config.model.mask_head.convs=2.
      start_from: name of the row whose last checkpoint of the same seed this one starts from (`config.init_from`).
      evaluate: name of the row whose last checkpoint of the same seed is evaluated; nothing is trained then, and
        `overrides` may have keys of `data`, `eval` and `model.test`.
      weights: name of the pretrained weights that the paper's row starts from, for example r50 for an ImageNet
        ResNet-50. `--weights=r50=FILE` says where they are. Empty: it starts from nothing, or from `start_from`.
      baseline: name of the row that this one is compared with; that of the table if it is empty.
      published: columns and what was published for them, in percent: {"mask/AP": 34.2}.
      source: where that is published: "Table 3, val2017".
    """

    name: str
    config: str = ""
    label: str = ""
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    start_from: str = ""
    evaluate: str = ""
    weights: str = ""
    baseline: str = ""
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)
    source: str = ""

    def __post_init__(self):
        if not self.label:
            object.__setattr__(self, "label", self.name)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows that belong together.

    Attributes:
      title: a headline.
      rows: in the order in which they are shown. A row may stand before the one that it starts from.
      baseline: name of the row that the others are compared with; empty: no comparison, but for rows with a baseline
        of their own.
      source: the paper.
      notes: what a reader must know to compare the numbers with the published ones.
      data: what `--data` is if it is not given: coco, shapes, or root=DIR.
      scale: what `--scale` is if it is not given: full, small or tiny.
      seeds: how many seeds are run if `--seeds` is not given.
      columns: what is shown, in this order; a column nobody measured or published is left out.
    """

    title: str
    rows: tuple[Row, ...]
    baseline: str = ""
    source: str = ""
    notes: str = ""
    data: str = "coco"
    scale: str = "full"
    seeds: int = 3
    columns: tuple[str, ...] = COLUMNS

    def row(self, name: str) -> Row:
        """The row called `name`. Raises KeyError if there is none."""
        return {row.name: row for row in self.rows}[name]

    def baseline_of(self, row: Row) -> str:
        """Name of the row that `row` is compared with; empty for a baseline itself, or without any."""
        name = row.baseline or self.baseline
        return "" if name == row.name else name
