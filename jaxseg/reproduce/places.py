"""The work directory of a table in what it has recorded: results.json is to be the same wherever that lies."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxseg.reproduce import records
from jaxseg.reproduce.records import Run

PLACE = "$DIR"
Hidden = Callable[[str], str]
_AFTER = r"""(?=/|["'`:,;)\s]|\.?(?:\s|$))"""  # a path goes on, or has ended


def hidden(folder: pathlib.Path, runs: Mapping[str, Sequence[Run]] | None = None) -> Hidden:
    """A function that writes "$DIR" for the folder in a text with paths, however the runs' commands spell it.

    An absolute path to it is told from other words by itself. A relative one may be any word: it counts only before
    "/runs/", as it stands in all paths to runs.
    """
    forms = {str(folder), str(folder.absolute()), str(folder.resolve())}
    for run in (run for group in (runs or {}).values() for run in group):
        end = f"/{records.RUNS}/{run.name}"
        paths = [word.partition("=")[2] or word for word in run.command if word.endswith(end)]
        forms |= {path.removesuffix(end) for path in paths}
    patterns = [
        re.escape(form) + (_AFTER if form.startswith("/") else f"(?=/{records.RUNS}/)")
        for form in sorted(forms - {"", "/"}, key=len, reverse=True)
    ]
    pattern = re.compile(rf"(?<![\w./-])(?:{'|'.join(patterns)})")
    return lambda text: pattern.sub(lambda _: PLACE, text)


def replaced(value: Any, change: Hidden) -> Any:
    """`value`, for JSON, with `change` applied to every string but the keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: replaced(v, change) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [replaced(v, change) for v in value]
    return value
