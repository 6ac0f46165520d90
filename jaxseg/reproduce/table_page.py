"""`report.html` of a table: every row with its spread, its difference, its curves, its costs and sample pictures."""

from __future__ import annotations

import os
import pathlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from jaxseg import atomic
from jaxseg.report import page
from jaxseg.reproduce import cells, curves, forest, reading, records, results, samples
from jaxseg.reproduce.cells import Cell, Grid
from jaxseg.reproduce.records import Run

REPORT = "report.html"
EN_DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def write(folder: str | os.PathLike, table: Any, jobs: Iterable[Any] = ()) -> pathlib.Path:
    """Writes report.html of what has been run so far.

    Args:
      folder: the work directory of the table.
      table: a `configs.tables.table.Table`.
      jobs: what is to be run; as `results.write` takes it.

    Returns:
      Its path.

    Raises:
      OSError: it cannot be written; an old one is as it was.
    """
    folder = pathlib.Path(folder)
    with results.writing(folder):
        text = render(folder, table, records.find(folder, table, jobs))
        with atomic.replacing(folder / REPORT) as file:
            file.write(text)
    return folder / REPORT


def render(folder: pathlib.Path, table: Any, runs: Mapping[str, Sequence[Run]]) -> str:
    """The page.

    Args:
      folder: the work directory of the table.
      table: a `configs.tables.table.Table`.
      runs: row -> its runs, as `records.find` gives them.
    """
    found, times = results.collect(folder, table, runs), results.collect_times(runs)
    labels = {row["name"]: row["label"] for row in found["rows"]}
    order = list(labels.values())
    main, further = split_columns(found["columns"])
    return page.render(
        "table.html",
        "jaxseg.reproduce",
        found=found,
        status=status(found),
        overview=typeset(cells.overview(found)),
        problems=cells.problems(found),
        forests=[c for key in main if (c := forest.chart(found, key, order)) is not None],
        differences=grids(cells.differences(found, key) for key in main),
        further=grids(cells.differences(found, key) for key in further),
        reading=reading.paragraphs(found),
        curves=curves.collect(runs, labels),
        costs=typeset(cells.costs(found, times)),
        samples=samples.collect(table, runs, labels),
        changes=grids(cells.changes(row) for row in found["rows"]),
        rows=about_rows(found["rows"]),
        commands=commands(runs, labels),
        environments=[environment(e) for e in found["environments"]],
        singles=typeset(cells.single_runs(found)),
        folder=str(folder.absolute()),
    )


def split_columns(columns: Sequence[str]) -> tuple[list[str], list[str]]:
    """(those that the page leads with: the AP of each kind, the others)."""
    main = [key for key in columns if key.endswith("/AP")] or list(columns[:1])
    return main, [key for key in columns if key not in main]


def status(found: Mapping[str, Any]) -> str:
    """How far the table is, in a sentence."""
    states = [run["status"] for row in found["rows"] for run in row["runs"]]
    none = sum(not row["runs"] for row in found["rows"])
    if not states:
        return "Nothing has been run yet."
    done = states.count("finished")
    words = [f"{done} of {len(states)} runs finished"]
    words += [
        f"{states.count(state)} {state}" for state in sorted(set(states)) if state != "finished"
    ]
    words += [f"{none} {'row' if none == 1 else 'rows'} not run"] if none else []
    return ", ".join(words) + "."


def typeset(grid: Grid | None) -> dict[str, Any] | None:
    """A grid as the macro `table` takes it."""
    if grid is None:
        return None
    return {
        "title": grid.title,
        "note": grid.note,
        "header": [name.replace("AP ", "AP\N{NO-BREAK SPACE}") for name in grid.header],
        "rows": [
            [_shown(cell, i >= grid.numbers) for i, cell in enumerate(row)] for row in grid.rows
        ],
        "text": tuple(range(grid.numbers)),
    }


def grids(found: Iterable[Grid | None]) -> list[dict[str, Any]]:
    """Those that there are, typeset."""
    return [typeset(grid) for grid in found if grid is not None]


def about_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each row is, as its label and pairs of words and values."""
    by_name = {row["name"]: row for row in rows}
    return [{"label": row["label"], "facts": _facts(row, by_name)} for row in rows]


def commands(runs: Mapping[str, Sequence[Run]], labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """(label of a row, the commands of its seeds as one would type them)."""
    found = []
    for name, group in runs.items():
        lines = [shlex.join(results.typed(run.command)) for run in group if run.command]
        if lines:
            found.append((labels[name], "\n".join(lines)))
    return found


def environment(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where runs were made, as pairs of words and values."""
    device = found["device"] or {}
    count, kind = device.get("count"), device.get("kind") or device.get("platform")
    words = [f"{count} x {kind}" if count else str(kind or "not recorded")]
    if (device.get("processes") or 1) > 1:
        words.append(f"in {device['processes']} processes")
    versions = ", ".join(f"{name} {version}" for name, version in (found["versions"] or {}).items())
    return [
        ("device", ", ".join(words)),
        ("commit", found["commit"] or "not recorded"),
        ("versions", versions or "not recorded"),
        ("runs", ", ".join(found["runs"])),
    ]


def _facts(
    row: Mapping[str, Any], by_name: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str]]:
    facts = [("name", row["name"])] if row["name"] != row["label"] else []
    facts += [("config", row["config"])] if row["config"] else []
    for key, word in (("start_from", "starts from"), ("evaluate", "evaluates")):
        if row[key]:
            facts.append((word, f"the last checkpoint of {by_name[row[key]]['label']}"))
    facts += [("weights", row["weights"])] if row["weights"] else []
    # What it shares with its baseline is told there.
    other = by_name[row["difference"]["baseline"]] if row["difference"] else {"overrides": {}}
    own = {k: v for k, v in row["overrides"].items() if other["overrides"].get(k, other) != v}
    words = [f"{key}={cells.plain(value)}" for key, value in own.items()]
    if len(own) < len(row["overrides"]):
        shared = len(row["overrides"]) - len(own)
        words.append(f"and {shared} as in {other['label']}")
    facts += [("overrides", ", ".join(words))] if words else []
    facts += [("published in", row["source"])] if row["source"] else []
    return facts


def _shown(cell: Cell, number: bool) -> str | Markup:
    """The text of a cell with the signs of print; what others published is set off."""
    text = cell.text
    if text == cells.NOTHING:
        text = EN_DASH
    elif number:
        text = text.replace("-", MINUS).replace("± ", "±\N{NO-BREAK SPACE}")
    if cell.published:
        return Markup('<span class="published">{}</span>').format(text)
    return Markup("<b>{}</b>").format(text) if cell.strong else text
