"""Parameter paths such as `backbone/stage1/block0/conv1/kernel`, and the patterns that name groups of them."""

from __future__ import annotations

import re
from collections.abc import Sequence


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether one of `patterns` names `path` or a module above it.

    A pattern is a regular expression over whole path components from the start: `backbone/stage1` names everything
    below it and not `backbone/stage10`; `backbone/stage[12]` and `.*/bias` work as one would expect.
    """
    return any(re.match(f"(?:{p})(?:/|$)", path) for p in patterns)
