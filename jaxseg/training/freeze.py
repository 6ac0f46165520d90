"""Which parameters do not train: patterns such as `backbone/stem` (see `jaxseg.paths`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax

from jaxseg import paths as paths_lib

TRAIN, FROZEN = "train", "frozen"


def path_string(path: tuple) -> str:
    """`backbone/stem/conv/kernel` from the key path of `jax.tree_util`."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def labels(params: Any, patterns: Sequence[str]) -> Any:
    """The tree of `params` with "frozen" or "train" at each leaf, as `optax.partition` takes it."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: FROZEN if paths_lib.matches(path_string(path), patterns) else TRAIN, params
    )


def stop_gradient(params: Any, patterns: Sequence[str]) -> Any:
    """`params` with `stop_gradient` on those that match, so that their gradients cost nothing."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: (
            jax.lax.stop_gradient(x) if paths_lib.matches(path_string(path), patterns) else x
        ),
        params,
    )


def check(params: Any, patterns: Sequence[str]) -> None:
    """Sees to it that every pattern freezes something and that something is left to train.

    Raises:
      ValueError: a pattern that matches no parameter (the paths there are are listed), or everything frozen.
    """
    leaves = [path_string(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in patterns:
        try:
            found = any(paths_lib.matches(path, [pattern]) for path in leaves)
        except re.error as error:
            raise ValueError(
                f"config.freeze: {pattern!r} is no regular expression: {error}."
            ) from None
        if not found:
            depth = pattern.strip("/").count("/") + 1
            below = f"; in full: {', '.join(_prefixes(leaves, depth))}" if depth > 1 else ""
            raise ValueError(
                f"config.freeze: no parameter lies under {pattern!r}. "
                f"There are: {', '.join(_prefixes(leaves, 1))}{below}."
            )
    if leaves and all(paths_lib.matches(path, patterns) for path in leaves):
        raise ValueError(f"config.freeze={tuple(patterns)}: nothing is left to train.")


def _prefixes(leaves: Sequence[str], depth: int) -> list[str]:
    return list(dict.fromkeys("/".join(p.split("/")[:depth]) for p in leaves))
