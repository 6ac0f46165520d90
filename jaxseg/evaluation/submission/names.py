"""The name that an algorithm has in the names of files."""

from __future__ import annotations

import os
import pathlib
import re

LETTERS = "A-Za-z0-9_-"
LONGEST = 100


def check(name: str) -> str:
    """Returns `name`.

    Raises:
      ValueError: it cannot stand in a server's file names.
    """
    if not re.fullmatch(f"[{LETTERS}]{{1,{LONGEST}}}", name):
        raise ValueError(
            f"The submission's name {name!r}: 1 to {LONGEST} letters (a-z, A-Z), digits, - and _ are allowed, since it "
            "becomes a part of file names."
        )
    return name


def default(workdir: str | os.PathLike, method: str) -> str:
    """The name of the work directory with - for what is not allowed in names; `method` where nothing is left of it."""
    folder = pathlib.Path(workdir).expanduser().absolute().name
    return re.sub(f"[^{LETTERS}]+", "-", folder).strip("-")[:LONGEST] or method
