"""`report.html` of a table: every row with its spread, its difference, its curves, its costs and sample pictures."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable
from typing import Any

REPORT = "report.html"


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
    return pathlib.Path(folder) / REPORT
