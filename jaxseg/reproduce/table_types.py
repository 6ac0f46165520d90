"""Whether what a table's file returned is a table at all: the kinds of its fields, and names that can be folders'."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

TABLE = {
    **dict.fromkeys(("title", "baseline", "source", "notes", "data", "scale"), str),
    **dict.fromkeys(("rows", "columns"), Sequence),
    "seeds": int,
}
ROW = {
    **dict.fromkeys(("name", "config", "label", "start_from", "evaluate"), str),
    **dict.fromkeys(("weights", "baseline", "source"), str),
    **dict.fromkeys(("overrides", "published"), Mapping),
}
_NEEDED = {
    str: "a string",
    int: "a whole number >= 1",
    Sequence: "a tuple; one of a single thing needs a comma, (x,)",
    Mapping: "a dictionary, {} for none",
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def check(table: Any) -> None:
    """Sees to it that every field of a table and of its rows is of the right kind.

    Raises:
      ValueError: the first that is not, with its row; or the name of a row that cannot be a folder's.
    """
    if _is_row(table.rows):
        raise ValueError("rows must be a tuple of Rows: is a comma missing, rows=(Row(...),)?")
    for key, kind in TABLE.items():
        _check_type(key, getattr(table, key), kind, ValueError)
    for i, row in enumerate(table.rows):
        if not _is_row(row):
            raise ValueError(
                f"rows[{i}] is {_short(row)}: must be a Row, Row(name=..., config=...)."
            )
        _check_name(row.name)

        def wrong(text: str, name: str = row.name) -> ValueError:
            return ValueError(f"row {name!r}: {text}")

        for key, kind in ROW.items():
            _check_type(key, getattr(row, key), kind, wrong)
        for key in row.overrides:
            _check_type("a key of overrides", key, str, wrong)


def _is_row(value: Any) -> bool:
    return all(hasattr(value, key) for key in ROW)


def _check_type(key: str, value: Any, kind: type, wrong: Callable[[str], ValueError]) -> None:
    right = isinstance(value, kind) and not isinstance(value, bool)
    if kind is Sequence:
        right = right and not isinstance(value, str)  # ("mask/AP") is a string
    if not right:
        raise wrong(f"{key}={_short(value)}: must be {_NEEDED[kind]}.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"a row is called {name!r}: a name, which is a folder's too, has 1 to 100 letters, digits, '_', '.' and "
            "'-', and starts with none of the last two."
        )
