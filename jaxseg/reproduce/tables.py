"""Reading a table (configs/tables/table.py says what one is) and finding what is wrong with it."""

from __future__ import annotations

import difflib
import importlib.util
import numbers
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jaxseg.evaluation import coco, lvis, measure
from jaxseg.reproduce import table_types

FOLDER = pathlib.Path("configs/tables")
SCALES = ("full", "small", "tiny")
EVALUATION = ("data.", "eval.", "model.test.")  # what an evaluation may set otherwise than its run
OWN = {
    "seed": "--seeds",
    "init_from": "start_from or weights",
    "checkpoints": "--workdir",
}  # what the runner sets, and from what
KINDS = tuple(dict.fromkeys(("mask", *measure.KINDS)))
METRICS = tuple(dict.fromkeys((*coco.names(), *lvis.names())))


def find(name: str) -> pathlib.Path:
    """The file of a table that is named by its path, or as NAME of configs/tables/NAME.py under the current folder.

    Raises:
      FileNotFoundError: there is none; the message lists those that there are.
    """
    if name.endswith(".py") or "/" in name:
        path = pathlib.Path(name).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"There is no table {path}.")
        return path
    path = FOLDER / f"{name}.py"
    if path.is_file() and name != "table":
        return path
    known = sorted(p.stem for p in FOLDER.glob("*.py"))
    known = [stem for stem in known if stem != "table" and not stem.startswith("_")]
    if not known:
        raise FileNotFoundError(
            f"There is no {path} here: run this from the top folder of a checkout of jaxseg, or give the path of a "
            "table's file."
        )
    raise FileNotFoundError(f"There is no table {suggest(name, known)}. Tables: {_list(known)}.")


def load(name: str) -> Any:
    """The checked Table of a file, see `find` and `check`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be executed, has no `get_table`, or describes a table that cannot be run.
    """
    path = find(name)
    spec = importlib.util.spec_from_file_location(f"jaxseg_table_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        make = getattr(module, "get_table", None)
        table = make() if callable(make) else None
    except (Exception, SystemExit) as error:  # one that exits would end this program without a word
        raise ValueError(
            f"The table {path} cannot be read: {_cause(error, spec.origin)}"
        ) from error
    if not all(hasattr(table, key) for key in table_types.TABLE):
        raise ValueError(
            f"{path} is no table: it needs a function get_table() that returns a configs.tables.table.Table."
        )
    try:
        check(table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return table


def check(table: Any) -> None:
    """Checks what can be said of a table without its configs.

    Raises:
      ValueError: the first mistake, with the row that has it.
    """
    table_types.check(table)
    if not table.rows:
        raise ValueError("the table has no rows.")
    names = [row.name for row in table.rows]
    folded = [name.lower() for name in names]
    twice = sorted({name for name in names if folded.count(name.lower()) > 1})
    if twice:
        raise ValueError(
            f"several rows are called {_list(twice)}; capitals alone do not tell folders apart."
        )
    if table.scale not in SCALES:
        raise ValueError(f"scale={table.scale!r}: allowed are {_list(SCALES)}.")
    if table.seeds < 1:
        raise ValueError(f"seeds={table.seeds!r}: must be a whole number >= 1.")
    if table.baseline and table.baseline not in names:
        raise ValueError(f"baseline: there is no row {suggest(table.baseline, names)}.")
    _check_columns("columns", table.columns, ValueError)
    rows = {row.name: row for row in table.rows}
    for row in table.rows:
        _check_row(row, rows)
    for row in table.rows:
        _check_cycle(row, rows)


def need(row: Any) -> str | None:
    """Name of the row whose checkpoint `row` needs."""
    return row.start_from or row.evaluate or None


def _cause(error: BaseException, file: str) -> str:
    """What went wrong in the file of a table, with the last line of it that led there and what to do."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    line = lines[-1] if lines else getattr(error, "lineno", None)
    where = f"line {line}: " if line else ""
    missing = isinstance(error, ModuleNotFoundError) and str(error.name).split(".")[0] == "configs"
    advice = ". Run this from the top folder of a checkout of jaxseg." if missing else ""
    return f"{where}{type(error).__name__}: {error}{advice}"


def _check_row(row: Any, rows: dict[str, Any]) -> None:
    def wrong(text: str) -> ValueError:
        return ValueError(f"row {row.name!r}: {text}")

    for key in ("start_from", "evaluate", "baseline"):
        other = getattr(row, key)
        if other and other not in rows:
            raise wrong(f"{key}: there is no row {suggest(other, list(rows))}.")
        if other == row.name and key != "baseline":
            raise wrong(f"{key} is the row itself.")
    if row.evaluate:
        _check_evaluation(row, rows, wrong)
    elif not row.config:
        raise wrong("it has neither a config to train nor a row to evaluate.")
    if row.start_from and rows[row.start_from].evaluate:
        raise wrong(f"start_from={row.start_from!r} is only evaluated and has no checkpoint.")
    if row.start_from and row.weights:
        raise wrong("it starts from a row (start_from) and from weights; one of them must go.")
    for key in row.overrides:
        if key in OWN:
            raise wrong(f"overrides has {key!r}, which comes from {OWN[key]}.")
    _check_columns("published", row.published, wrong)
    for key, value in row.published.items():
        if not _number(value) or not 0 <= value <= 100:
            raise wrong(f"published {key}={value!r}: a number in percent is needed, 0 to 100.")


def _check_evaluation(row: Any, rows: dict[str, Any], wrong: Callable[[str], ValueError]) -> None:
    for key in ("config", "start_from", "weights"):
        if getattr(row, key):
            raise wrong(
                f"it only evaluates {row.evaluate!r}, whose model and config it takes; {key} has no meaning there."
            )
    if rows[row.evaluate].evaluate:
        raise wrong(
            f"evaluate={row.evaluate!r} is itself only evaluated; name {rows[row.evaluate].evaluate!r}, which is "
            "trained."
        )
    for key in row.overrides:
        if not key.startswith(EVALUATION):
            raise wrong(
                f"it only evaluates {row.evaluate!r}, and {key} is a key of the training or the model. Allowed are "
                f"keys of {_list(key.rstrip('.') for key in EVALUATION)}."
            )


def _check_columns(what: str, keys: Iterable[str], wrong: Callable[[str], ValueError]) -> None:
    for key in keys:
        kind, _, metric = str(key).partition("/")
        if kind not in KINDS or metric not in METRICS:
            raise wrong(
                f"{what} has {key!r}: known are {_list(KINDS)}, each with /{', /'.join(METRICS)}."
            )


def _check_cycle(row: Any, rows: dict[str, Any]) -> None:
    seen = [row.name]
    while (name := need(rows[seen[-1]])) is not None:
        if name in seen:
            circle = " from ".join(repr(n) for n in [*seen[seen.index(name) :], name])
            raise ValueError(f"row {name!r}: rows start from each other in a circle: {circle}.")
        seen.append(name)


def suggest(name: str, known: Sequence[str]) -> str:
    """`'tabel' (did you mean 'table'?)`."""
    close = difflib.get_close_matches(name, known, n=2)
    return repr(name) + (f" (did you mean {' or '.join(map(repr, close))}?)" if close else "")


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)


def _number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
