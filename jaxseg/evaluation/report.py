"""What an evaluation says, as a console table, Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tempfile
from collections import Counter
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxseg import atomic
from jaxseg.evaluation import coco, measure
from jaxseg.evaluation import results as results_lib

_CLASS_COLUMNS = ("AP", "AP50")  # all numbers are in metrics.json
MANY = 100  # classes from which on the console sums them up


@dataclasses.dataclass
class Report:
    """The outcome of one evaluation.

    `metrics`: kind of AP (see `measure.KINDS`) -> numbers; empty for a split without annotations.
    """

    split: str
    images: int
    seconds: float  # for detecting and pasting, with compilation, without the evaluator
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)  # what was left out: how many
    results: list[dict] = dataclasses.field(default_factory=list)  # COCO results
    protocol: str = "coco"
    metrics: dict[str, coco.Metrics] = dataclasses.field(default_factory=dict)
    objects: dict[str, int] = dataclasses.field(default_factory=dict)  # class: how many, no crowds
    groups: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # of very many classes
    # Settings that are not those of the evaluated run, with its value and the one here.
    changed: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)

    def measure(self, ground_truth: dict, used: measure.Settings) -> None:
        """Compares the results with a COCO ground truth, by the settings of `measure.chosen`."""
        self.protocol = used.protocol
        self.metrics = measure.measure(ground_truth, self.results, used)
        categories = ground_truth["categories"]
        count = Counter(
            a["category_id"] for a in ground_truth["annotations"] if not a.get("iscrowd", 0)
        )
        names = coco.labels(categories)
        self.objects = {n: count[c["id"]] for n, c in zip(names, categories, strict=True)}
        self.groups = measure.groups(ground_truth, used) if len(names) > MANY else {}

    @property
    def box(self) -> coco.Metrics | None:
        """The numbers of boxes; None without annotations."""
        return self.metrics.get("box")

    @property
    def mask(self) -> coco.Metrics | None:
        """The numbers of masks; None without annotations."""
        return self.metrics.get("mask")

    @property
    def headline(self) -> str:
        """One line: what was run, how long it took, and the APs."""
        line = (
            f"{self.split}: {len(self.results)} detections in {self.images} images, "
            f"{self.seconds:.1f} s with compilation"
        )
        for kind, metrics in self.metrics.items():
            line += f", {measure.KINDS[kind]} AP {_number(metrics.summary['AP'])}"
        return line

    def to_dict(self) -> dict[str, Any]:
        """Everything but the results, ready for JSON."""
        kinds = dict.fromkeys(("box", "mask", *self.metrics))
        return {
            "split": self.split,
            "protocol": self.protocol,
            "images": self.images,
            "detections": len(self.results),
            "seconds": self.seconds,
            "skipped": self.skipped,
            "objects": self.objects,
            "groups": self.groups,
            **kinds,
            **{k: dict(summary=m.summary, per_class=m.per_class) for k, m in self.metrics.items()},
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any], results: list[dict]) -> Report:
        """What `to_dict` gave, with the results; the curves are not in it.

        Raises:
          KeyError, TypeError: it is something else.
        """
        fields = {k: found[k] for k in ("split", "images", "seconds", "skipped", "objects")}
        fields |= {
            k: found[k] for k in ("protocol", "groups") if k in found
        }  # since there are several
        measure.PROTOCOLS[fields.get("protocol", "coco")]  # of a later version: KeyError
        types = {"box": "bbox", "boundary": "boundary"}
        metrics = {
            kind: coco.Metrics(types.get(kind, "segm"), **found[kind])
            for kind in measure.KINDS
            if found.get(kind)
        }
        return cls(results=results, metrics=metrics, **fields)

    def print(self, console: Console | None = None) -> None:
        """Prints the headline, what was skipped or changed, and the tables; names stand as they are, no markup.

        Of very many classes there are groups; `markdown` has each.
        """
        console = console or Console()
        console.print(Text(self.headline))
        for name, count in self.skipped.items():
            console.print(Text(f"skipped: {count} {name}", style="yellow"))
        for line in self._changes():
            console.print(Text(line), soft_wrap=True)
        for title, header, rows in self._tables(brief=True):
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
        """Writes results.json (COCO results), metrics.json, metrics.md and precision_recall.png into `folder`.

        Without annotations only results.json is written, and the others, of what was there before, are removed. Each
        file appears whole or not at all.
        """
        folder = pathlib.Path(folder)
        for name in ("metrics.json", "metrics.md", "precision_recall.png"):
            (folder / name).unlink(missing_ok=True)  # numbers must not stand beside other results
        files = {"results": folder / "results.json"}
        results_lib.save(files["results"], self.results)
        if self.metrics:
            files |= {"metrics": folder / "metrics.json", "table": folder / "metrics.md"}
            write_text(files["metrics"], json.dumps(self.to_dict(), indent=1))
            write_text(files["table"], self.markdown())
        if any(metrics.curves for metrics in self.metrics.values()):
            from jaxseg.evaluation import plots  # matplotlib takes its time

            files["curves"] = plots.precision_recall(self.metrics, folder / "precision_recall.png")
        return files

    def _changes(self) -> list[str]:
        return [
            f"Changed from the run: {key} {old!r} -> {new!r}"
            for key, (old, new) in self.changed.items()
        ]

    def _tables(self, brief: bool = False) -> list[tuple[str, list[str], list[list[str]]]]:
        if not self.metrics:
            return []
        names = dict.fromkeys(name for m in self.metrics.values() for name in m.summary)
        rows = [
            [name, *(_number(m.summary.get(name)) for m in self.metrics.values())] for name in names
        ]
        title = f"{measure.PROTOCOLS[self.protocol].title} metrics on {self.split}"
        tables = [(title, ["", *(measure.KINDS[kind] for kind in self.metrics)], rows)]
        columns = [f"{measure.KINDS[k]} {name}" for k in self.metrics for name in _CLASS_COLUMNS]
        if brief and self.groups:
            header = ["classes", "how many", "with objects", "objects", *columns]
            rows = [self._of_group(*group) for group in self.groups.items()]
            return [*tables, (f"Classes on {self.split}, summed up", header, rows)]
        rows = [
            [name, str(self.objects.get(name, ""))]
            + [
                _number(m.per_class[name][key])
                for m in self.metrics.values()
                for key in _CLASS_COLUMNS
            ]
            for name in next(iter(self.metrics.values())).per_class
        ]
        return [*tables, (f"Per class on {self.split}", ["class", "objects", *columns], rows)]

    def _of_group(self, group: str, names: list[str]) -> list[str]:
        """A group of classes: the means over those that have the number."""
        counts = [self.objects.get(name, 0) for name in names]
        values = [
            coco.mean(np.array([m.per_class[name][key] for name in names]))
            for m in self.metrics.values()
            for key in _CLASS_COLUMNS
        ]
        sizes = (len(names), np.count_nonzero(counts), sum(counts))
        return [group, *(f"{n:,}" for n in sizes), *map(_number, values)]


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


def _number(value: float | None) -> str:
    """A number; "-" is one that is not defined, and "" one that a protocol does not have."""
    if value is None:
        return ""
    return "-" if value < 0 else f"{value:.3f}"
