"""The same images for every row of a table, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxseg.report import folder as folders
from jaxseg.report import pictures
from jaxseg.reproduce.records import Run

IMAGES = 6
SIDE = 400


@dataclasses.dataclass(frozen=True)
class Samples:
    """Pictures for the page, and what must be said about them."""

    sheet: list[dict[str, Any]]
    notes: list[str]


def collect(
    table: Any, runs: Mapping[str, Sequence[Run]], labels: Mapping[str, str], count: int = IMAGES
) -> Samples:
    """Draws `count` images with the ground truth and the detections of each row's first finished seed.

    Rows are comparable although their scores are on different scales: of each as many detections are taken, those
    with the highest scores, as the split has objects.

    Args:
      table: a `configs.tables.table.Table`.
      runs: row -> runs.
      labels: row -> what it is called.
    """
    first = {name: run for name, group in runs.items() if (run := _first(group)) is not None}
    source, where, why = _open(table, first)
    if source is None:
        return Samples([], [why])
    same = {name: run for name, run in first.items() if _place_of(table, name, first) == where}
    notes = [
        f"{labels[name]} was evaluated on other images and is not shown."
        for name in first
        if name not in same
    ]
    # With eval.max_images only the first ones were evaluated.
    evaluated = [run.final["images"] for run in same.values() if run.final.get("images")]
    ids = pictures.choose(source, count, min(evaluated, default=None))
    wanted, found, scores = set(ids), {}, {}
    for name, run in same.items():
        results = folders.read(run.folder).results
        if results is None:
            notes.append(f"The detections of {labels[name]} are not there any more.")
            continue
        scores[labels[name]] = score_for(results, run.final.get("objects"))
        found[labels[name]] = [r for r in results if r["image_id"] in wanted]
    sheet = pictures.sheet(source, ids, found, score=scores, side=SIDE)
    return Samples(sheet, notes if sheet else [*notes, "None of the images could be read."])


def score_for(results: Sequence[Mapping], objects: Mapping[str, int] | None) -> float:
    """The score above which there are as many results as objects; 0.5 where the objects are not known."""
    count = sum((objects or {}).values())
    if not count:
        return 0.5
    scores = sorted((r["score"] for r in results), reverse=True)
    return scores[min(count, len(scores)) - 1] if scores else 0.5


def _first(group: Sequence[Run]) -> Run | None:
    return next((run for run in group if run.finished), None)


def _open(table: Any, first: Mapping[str, Run]) -> tuple[Any, Any, str]:
    """(source, its place, "") of the first row that still knows its data, or (None, None, why there is none)."""
    if not first:
        return None, None, "No row is finished yet."
    why = "The folders of the rows do not say which data they were evaluated on."
    ordered = sorted(first, key=lambda name: name != table.baseline)
    for name in ordered:
        place = _place_of(table, name, first)
        if place is None or not first[name].settings:
            continue
        try:
            source, why = folders.open_data(folders.read(first[name].folder))
        except (OSError, ValueError) as error:
            why = str(error)
            continue
        if source is not None:
            return source, place, ""
        why = f"The images are not there any more: {why}"
    return None, None, why


def _place_of(table: Any, name: str, first: Mapping[str, Run]) -> Any:
    """What tells whether two rows saw the same images; None where it is not known."""
    row, run = table.row(name), first[name]
    if row.evaluate:
        moved = any(key.startswith("data.") or key == "eval.split" for key in row.overrides)
        other = first.get(row.evaluate)
        return None if moved or other is None else _place_of(table, row.evaluate, first)
    data, split = run.settings.get("config", {}).get("data"), run.final.get("split")
    if not isinstance(data, Mapping):
        return None
    # The other keys say which images are trained on, and how images are shown to the network.
    shapes = {k: v for k, v in data.get("shapes", {}).items() if k == split or k != "train"}
    return {**{key: data.get(key) for key in ("source", "root", split)}, "shapes": shapes}
