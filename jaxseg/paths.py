"""Parameter paths such as `backbone/stage1/block0/conv1/kernel`, and the patterns that name groups of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether one of `patterns` names `path` or a module above it.

    A pattern is a regular expression over whole path components from the start: `backbone/stage1` names everything
    below it and not `backbone/stage10`; `backbone/stage[12]` and `.*/bias` work as one would expect.
    """
    return any(re.match(f"(?:{p})(?:/|$)", path) for p in patterns)


def copied_from(path: str, copies: Mapping[str, str]) -> str | None:
    """Where the value of `path` is copied from, if it lies in one of the modules of `copies` (module -> other module).

    Both begin with the collection, `params/...`. An empty string if the module has no other; None outside of all.
    """
    collection, _, inner = path.partition("/")
    for module, other in copies.items():
        if inner.startswith(f"{module}/"):
            return f"{collection}/{other}{inner.removeprefix(module)}" if other else ""
    return None
