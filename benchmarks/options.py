"""Checks of command line flags that the benchmarks share."""

from __future__ import annotations

import os
from collections.abc import Collection

from absl import flags


def only_of(name: str, allowed: Collection[str], *, optional: bool = False) -> None:
    """The list flag `name` takes one or more of `allowed`, or with `optional` may be left out."""
    flags.register_validator(
        name,
        lambda v: (optional and v is None) or (bool(v) and set(v) <= set(allowed)),
        message="allowed are " + ", ".join(allowed),
    )


def writable(name: str) -> None:
    """The flag `name` is a file whose folder can be written, or is left out."""
    flags.register_validator(
        name,
        lambda v: (
            v is None
            or (os.access(os.path.dirname(os.path.abspath(v)), os.W_OK) and not os.path.isdir(v))
        ),
        message="a file is written, whose folder must exist and be writable",
    )


def counts(name: str) -> None:
    """The list flag `name` takes different whole numbers from 1."""
    flags.register_validator(
        name,
        lambda v: bool(v) and len({*v}) == len(v) and all(x.isdigit() and int(x) > 0 for x in v),
        message="give whole numbers from 1, each once",
    )


def canvas(name: str) -> None:
    """The list flag `name` takes the height and the width of a canvas, in pixels."""
    flags.register_validator(
        name,
        lambda v: len(v) == 2 and all(x.isdigit() and int(x) > 0 and int(x) % 32 == 0 for x in v),
        message="allowed are HEIGHT,WIDTH, both multiples of 32",
    )
