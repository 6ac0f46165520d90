"""The keys of a config, and what a mistyped one may have been meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict


def keys(config: ConfigDict) -> list[str]:
    """All keys of a config and of its groups, groups themselves included: `optim`, `optim.lr`, ..."""
    return list(_keys(config))


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that is no group, with its value: `("optim.lr", 0.02)`, ...; `prefix` stands before each."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def suggest(key: str, known: Sequence[str]) -> str:
    """An unknown key with those that it may have been meant to be: `optim.lrate (did you mean optim.lr?)`."""
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    last = key.rpartition(".")[2]
    close += [k for k in known if k.rpartition(".")[2] == last and k not in close][:2]
    return key + (f" (did you mean {' or '.join(close)}?)" if close else "")


def _keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, ConfigDict):
            yield from _keys(value, f"{prefix}{key}.")
