"""What the command line says of the runs of a table."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence

from jaxseg.reproduce import tables

SCALE_WORDS = {"full": "", "small": "small", "tiny": "runlocal"}  # arguments of config files


@dataclasses.dataclass(frozen=True)
class Options:
    """How a table is run; None stands for what the table says.

    Attributes:
      workdir: the table's work directory, as it was typed.
      data: coco, shapes, or root=DIR,...: added to the arguments of every row's config.
      seeds: how many; they are 0, 1, ...
      rows: patterns of the names of rows; empty: all.
      scale: full, small or tiny.
      shard: (i, n): of n parts of the jobs the i-th, counted from 1.
      weights: name of pretrained weights -> a file or work directory.
      settings: "key=value", for the config of every row.
      train, evaluate: the programs.
    """

    workdir: str
    data: str | None = None
    seeds: int | None = None
    rows: tuple[str, ...] = ()
    scale: str | None = None
    shard: tuple[int, int] = (1, 1)
    weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
    settings: tuple[str, ...] = ()
    train: str = "train.py"
    evaluate: str = "eval.py"


def check_programs(options: Options) -> None:
    """Sees to it that the programs are there.

    Raises:
      FileNotFoundError: one is not; most likely this is run from another folder.
    """
    for program in (options.train, options.evaluate):
        if not os.path.isfile(program):
            raise FileNotFoundError(
                f"There is no {program} in {os.getcwd()}: run this from the top folder of a checkout of jaxseg."
            )


def parse_workdir(text: str) -> str:
    """The folder as it was typed, but `~` stands for the home folder.

    Raises:
      ValueError: it is empty, as of an unset variable.
    """
    if not text.strip():
        raise ValueError(f"--workdir={text}: a folder is needed, e.g. --workdir=runs/mine.")
    return os.path.expanduser(text)


def parse_shard(text: str) -> tuple[int, int]:
    """`2/4` -> (2, 4).

    Raises:
      ValueError: it is no such thing.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    i, n = map(int, found.groups()) if found else (0, 0)
    if not 1 <= i <= n:
        raise ValueError(
            f"--shard={text}: i/n is needed, with i from 1 to n, e.g. 1/4 on the first of four machines."
        )
    return i, n


def parse_weights(words: Sequence[str]) -> dict[str, str]:
    """`["r50=r50.pth"]` -> {"r50": "r50.pth"}.

    Raises:
      ValueError: a word is no such thing, or a name occurs twice.
    """
    weights: dict[str, str] = {}
    for word in words:
        name, _, file = word.partition("=")
        if not name or not file:
            raise ValueError(f"--weights={word}: NAME=FILE is needed, e.g. r50=resnet50.pth.")
        if name in weights:
            raise ValueError(f"--weights: {name} is given twice, {weights[name]} and {file}.")
        weights[name] = file
    return weights


def parse_settings(words: Sequence[str]) -> dict[str, str]:
    """`["model.dtype=bfloat16"]` -> {"model.dtype": "bfloat16"}.

    Raises:
      ValueError: a word is no such thing, a key occurs twice, or it is one that the runner sets.
    """
    found: dict[str, str] = {}
    for word in words:
        key, given, value = word.partition("=")
        key = key.removeprefix("config.")
        if not key or not given:
            raise ValueError(f"--set={word}: KEY=VALUE is needed, e.g. model.dtype=bfloat16.")
        if key in tables.OWN:
            source = {"seed": "--seeds", "init_from": "--weights", "checkpoints": "--workdir"}[key]
            raise ValueError(f"--set={word}: {key} differs from row to row; see {source}.")
        if key in found:
            raise ValueError(f"--set: {key} is given twice, {found[key]} and {value}.")
        found[key] = value
    return found
