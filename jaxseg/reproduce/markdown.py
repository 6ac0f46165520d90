"""`table.md`: the tables of a report, for a README or an issue."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from jaxseg.reproduce import cells, reading
from jaxseg.reproduce.cells import Cell, Grid


def document(found: Mapping[str, Any], times: Mapping[str, Any]) -> str:
    """The Markdown of a table.

    Args:
      found: the content of results.json.
      times: the content of timings.json.
    """
    parts = [f"# {escape(found['title'])}"]
    parts += [escape(found[key]) for key in ("source", "notes") if found[key]]
    parts += _section(cells.overview(found))
    compared = [g for key in found["columns"] if (g := cells.differences(found, key)) is not None]
    if compared:
        parts += ["## Differences to the baseline", escape(compared[0].note)]
        for grid in compared:
            parts += [f"### {escape(grid.title)}", table(grid)]
    for grid in (cells.costs(found, times), cells.unfinished(found)):
        parts += _section(grid) if grid is not None else []
    told = reading.paragraphs(found)
    if told:
        parts += ["## How to read the numbers", *map(escape, told)]
    commands = [run["command"] for row in found["rows"] for run in row["runs"] if run["command"]]
    if commands:
        lines = "\n".join(line(command) for command in commands)
        parts += ["## Commands", "`DIR` is the work directory of the table.", f"```\n{lines}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(grid: Grid) -> str:
    """A table as Markdown."""
    align = ["---:" if i >= grid.numbers else "---" for i in range(len(grid.header))]
    header = [escape(name) for name in grid.header]
    rows = [header, align, *([_cell(cell) for cell in row] for row in grid.rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def line(command: list[str]) -> str:
    """A command for a shell; "$DIR" stays a variable."""
    words = [shlex.quote(word) for word in command]
    return " ".join(
        word if "$DIR" not in raw else _with_variable(raw)
        for word, raw in zip(words, command, strict=True)
    )


def escape(text: str) -> str:
    """Text that Markdown shows as it stands, on one line."""
    text = re.sub(r"([\\`*_<>|#~]|\](?=\())", r"\\\1", text)  # brackets alone make no link
    return " ".join(text.split())


def _section(grid: Grid) -> list[str]:
    return [f"## {escape(grid.title)}", table(grid), escape(grid.note)]


def _with_variable(word: str) -> str:
    """Quotes a word that holds $DIR so that the shell still puts the folder in."""
    return "$DIR".join(shlex.quote(part) if part else "" for part in word.split("$DIR"))


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return f"**{text}**" if cell.strong and text else text
