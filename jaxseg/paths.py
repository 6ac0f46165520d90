"""Parameter paths such as `backbone/stage1/block0/conv1/kernel`, and the patterns that name groups of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether one of `patterns` names `path` or a module above it.

    A pattern is a regular expression over whole path components from the start: `backbone/stage1` names everything
    below it and not `backbone/stage10`; `backbone/stage[12]` and `.*/bias` work as one would expect.
    """
    return any(re.match(f"(?:{p})(?:/|$)", path) for p in patterns)


def modules(paths: Iterable[str], others: Iterable[str]) -> list[str]:
    """The largest modules that hold nothing but `paths`, where everything else is `others`, all with collections."""
    inner = [path.partition("/")[2] for path in paths]
    elsewhere = {prefix for path in others for prefix in _prefixes(path.partition("/")[2])}
    found = (next((p for p in _prefixes(path) if p not in elsewhere), path) for path in inner)
    return sorted(dict.fromkeys(found))


def copies_of(
    ours: Collection[str],
    theirs: Collection[str],
    copies: Mapping[str, str],
    renewed: Collection[str] = (),
) -> dict[str, str]:
    """Which variables start as copies of which others of the same model, where weights have only `theirs`.

    A module that the weights lack is a copy of its other; in one that they have, only what is renewed. Half a module
    cannot be completed: what was trained together does not fit what was trained elsewhere. Where the weights have
    nothing of the other either, there is nothing to copy.

    Args:
      ours: paths of all variables of the model, with their collections: `params/roi_heads/box_head/fc0/kernel`.
      theirs: paths that there are weights for.
      copies: module -> the other module, both without collection; "": the module has no other.
      renewed: paths of `ours` that get fresh values whether there are weights for them or not.

    Returns:
      path -> path, both of `ours`; path -> "" in a module that the weights lack and that has no other.

    Raises:
      ValueError: the weights have a part of a module; what they lack is named.
    """
    taken = {path for path in ours if path in theirs and path not in renewed}
    found: dict[str, str] = {}
    for module, other in copies.items():
        own = _below(module, ours)
        there = [path for path in own if path in taken]
        lacking = [path for path in own if path not in theirs and path not in renewed]
        if there and lacking:
            parts = ", ".join(modules(lacking, [*theirs, *there]))
            raise ValueError(
                f"{module} is there without {parts}. A module is taken over whole, or, where there is nothing of it, "
                f"starts whole {f'as a copy of {other}' if other else 'from its initialiser'}: half of it would not "
                "fit the other half."
            )
        if not other:
            found |= dict.fromkeys([] if there else own, "")
        elif any(path in theirs for path in _below(other, ours)):
            found |= {path: _moved(path, module, other) for path in own if path not in taken}
    return found


def _below(module: str, paths: Iterable[str]) -> list[str]:
    return [path for path in paths if path.partition("/")[2].startswith(f"{module}/")]


def _moved(path: str, module: str, other: str) -> str:
    collection, _, inner = path.partition("/")
    return f"{collection}/{other}{inner.removeprefix(module)}"


def _prefixes(path: str) -> list[str]:
    """`a`, `a/b`, `a/b/c` of `a/b/c`."""
    parts = path.split("/")
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]
