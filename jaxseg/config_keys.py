"""The keys of a config, and what a mistyped one may have been meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict


def keys(config: ConfigDict) -> list[str]:
    """All keys of a config and of its groups, groups themselves included: `optim`, `optim.lr`, ..."""
    return list(_keys(config))


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
