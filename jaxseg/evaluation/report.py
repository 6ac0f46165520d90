"""What an evaluation says, as a console table, Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tempfile
from collections import Counter
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxseg import atomic
from jaxseg.evaluation import results as results_lib
from jaxseg.evaluation.coco import Metrics

_CLASS_COLUMNS = ("AP", "AP50")  # all twelve are in metrics.json


@dataclasses.dataclass
class Report:
    """The outcome of one evaluation. `box` and `mask` are None for a split without annotations."""

    split: str
    images: int
    seconds: float  # for detecting and pasting, with compilation, without the evaluator
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)  # what was left out: how many
    results: list[dict] = dataclasses.field(default_factory=list)  # COCO results
    box: Metrics | None = None
    mask: Metrics | None = None
    objects: dict[str, int] = dataclasses.field(default_factory=dict)  # class: how many, no crowds
    # Settings that are not those of the evaluated run, with its value and the one here.
    changed: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)

    def count_objects(self, ground_truth: dict) -> None:
        """Notes how many objects each class has in a COCO ground truth."""
        count = Counter(
            a["category_id"] for a in ground_truth["annotations"] if not a.get("iscrowd", 0)
        )
        ids = [category["id"] for category in ground_truth["categories"]]
        assert self.box is not None
        self.objects = {name: count[i] for name, i in zip(self.box.per_class, ids, strict=True)}

    @property
    def headline(self) -> str:
        """One line: what was run, how long it took, and the two APs."""
        line = (
            f"{self.split}: {len(self.results)} detections in {self.images} images, "
            f"{self.seconds:.1f} s with compilation"
        )
        if self.box and self.mask:
            line += f", box AP {self.box.summary['AP']:.3f}, mask AP {self.mask.summary['AP']:.3f}"
        return line

    def to_dict(self) -> dict[str, Any]:
        """Everything but the results, ready for JSON."""
        kinds = {kind: getattr(self, kind) for kind in ("box", "mask")}
        return {
            "split": self.split,
            "images": self.images,
            "detections": len(self.results),
            "seconds": self.seconds,
            "skipped": self.skipped,
            "objects": self.objects,
            **{
                kind: m and dict(summary=m.summary, per_class=m.per_class)
                for kind, m in kinds.items()
            },
        }

    def print(self, console: Console | None = None) -> None:
        """Prints the headline, what was skipped or changed, and the tables; names stand as they are, no markup."""
        console = console or Console()
        console.print(Text(self.headline))
        for name, count in self.skipped.items():
            console.print(Text(f"skipped: {count} {name}", style="yellow"))
        for line in self._changes():
            console.print(Text(line), soft_wrap=True)
        for title, header, rows in self._tables():
            table = Table(
                title=Text(title, style="table.title"), title_justify="left", box=box.SIMPLE_HEAD
            )
            for i, column in enumerate(header):
                table.add_column(Text(column), justify="left" if i == 0 else "right")
            for row in rows:
                table.add_row(*map(Text, row))
            console.print(table)

    def markdown(self) -> str:
        """The same as `print`, as Markdown."""
        parts = [self.headline, *(f"skipped: {n} {name}" for name, n in self.skipped.items())]
        parts += self._changes()
        for title, header, rows in self._tables():
            align = ["---"] + ["---:"] * (len(header) - 1)
            lines = ["| " + " | ".join(row) + " |" for row in (header, align, *rows)]
            parts += [f"**{title}**", "\n".join(lines)]
        return "\n\n".join(parts) + "\n"

    def save(self, folder: str | os.PathLike) -> dict[str, pathlib.Path]:
        """Writes results.json (COCO results), metrics.json and metrics.md into `folder`.

        Without annotations only results.json is written. Each file appears whole or not at all.
        """
        folder = pathlib.Path(folder)
        files = {"results": folder / "results.json"}
        results_lib.save(files["results"], self.results)
        if self.box:
            files |= {"metrics": folder / "metrics.json", "table": folder / "metrics.md"}
            write_text(files["metrics"], json.dumps(self.to_dict(), indent=1))
            write_text(files["table"], self.markdown())
        return files

    def _changes(self) -> list[str]:
        return [
            f"Changed from the run: {key} {old!r} -> {new!r}"
            for key, (old, new) in self.changed.items()
        ]

    def _tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        if not (self.box and self.mask):
            return []
        kinds = {"box": self.box, "mask": self.mask}
        rows = [[k, *(_number(m.summary[k]) for m in kinds.values())] for k in self.box.summary]
        tables = [(f"COCO metrics on {self.split}", ["", "box", "mask"], rows)]
        header = ["class", "objects"]
        header += [f"{kind} {key}" for kind in kinds for key in _CLASS_COLUMNS]
        rows = [
            [name, str(self.objects.get(name, ""))]
            + [_number(m.per_class[name][key]) for m in kinds.values() for key in _CLASS_COLUMNS]
            for name in self.box.per_class
        ]
        tables.append((f"Per class on {self.split}", header, rows))
        return tables


def make_folder(path: str | os.PathLike) -> pathlib.Path:
    """Makes a folder for results if need be, and tries whether it can be written, before long work.

    Returns:
      The folder, with "~" as the user's home.

    Raises:
      OSError: it cannot.
    """
    path = pathlib.Path(path).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise type(error)(
            f"The folder {path} cannot be written: {error.strerror or error}. Choose another --out."
        ) from error
    return path


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a file so that a reader finds the old or the new one, never a part; makes its folder."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.replacing(path) as file:
        file.write(text)


def _number(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"
