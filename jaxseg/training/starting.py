"""What a model starts with: the weights of a run or a file, copies of them, and fresh values for what they lack."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxseg import paths
from jaxseg.training.class_rows import Rows

SHOWN = 4  # names of each kind


@dataclasses.dataclass(frozen=True)
class Start:
    """The first values of a model, by path (`params/backbone/...`); every variable is in one of the first three.

    Attributes:
      values: what is taken over.
      copied: path -> the path that it starts as a copy of, out of `values` or `initial`.
      initial: path -> why it starts from its initialiser.
      rows: paths of `values` that are for other classes -> what of them is taken; the rest starts from the initialiser.
      told: lines for the user.
      untrained: those of `values` that are an initialiser's, too: a file was imported that lacked them.
    """

    values: Mapping[str, np.ndarray]
    copied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    initial: Mapping[str, str] = dataclasses.field(default_factory=dict)
    told: Sequence[str] = ()
    untrained: Collection[str] = ()
    rows: Mapping[str, Rows] = dataclasses.field(default_factory=dict)

    @property
    def fresh(self) -> list[str]:
        """Every path whose value, or a part of it, no training has made."""
        partly = (path for path, rows in self.rows.items() if not rows.whole)
        new = dict.fromkeys([*self.initial, *self.untrained, *partly])
        return [*new, *(path for path, source in self.copied.items() if source in new)]

    @property
    def needed(self) -> set[str]:
        """Paths whose initial values `complete` needs."""
        return {*self.initial, *self.rows}

    def complete(self, fresh: Mapping[str, Any]) -> tuple[Any, Any]:
        """(params, batch_stats) as trees, with `fresh` values by path for `initial` and what `rows` leaves."""
        made = {p: r.into(fresh[p], np.asarray(self.values[p])) for p, r in self.rows.items()}
        return trees({**self.values, **made}, self.copied, self.initial, fresh)


def trees(
    values: Mapping[str, Any],
    copied: Mapping[str, str],
    initial: Iterable[str],
    fresh: Mapping[str, Any],
) -> tuple[Any, Any]:
    """(params, batch_stats); arguments as the fields of `Start`."""
    flat = {path: fresh.get(path) for path in initial} | dict(values)
    # A copy has memory of its own: the step gives each array away, which it can do only once.
    flat |= {path: np.array(flat[source]) for path, source in copied.items()}
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *groups, leaf = path.split("/")
        functools.reduce(lambda node, name: node.setdefault(name, {}), groups, tree)[leaf] = value
    return tree["params"], tree.get("batch_stats", {})


def of_run(
    saved: Mapping[str, np.ndarray],
    like: Mapping[str, tuple[int, ...]],
    *,
    renewed: Collection[str] = (),
    copies: Mapping[str, str],
    dispensable: Mapping[str, str] = MappingProxyType({}),
    rows: Mapping[str, Rows] = MappingProxyType({}),
) -> Start:
    """A start out of another run's variables.

    Args:
      saved: the other run's variables by path.
      like: the shapes of ours.
      renewed: paths of class layers that start anew.
      copies: see `methods.copies`.
      dispensable: patterns of what `like` may lack, with why; see `methods.dispensable`.
      rows: of class layers for other classes, see `Start`.

    Raises:
      ValueError: what is there does not fit what is wanted; up to `SHOWN` variables are named with both shapes.
    """
    left = {p: why for p in saved if p not in like and (why := _why_left(p, dispensable))}
    saved = {p: value for p, value in saved.items() if p not in left}
    sources = paths.copies_of(like, saved, copies, renewed)
    copied = {path: source for path, source in sources.items() if source}
    initial = {path: "that run has none" for path, source in sources.items() if not source}
    initial |= {path: "the classes differ" for path in renewed if path not in copied}
    wanted = {p: shape for p, shape in like.items() if p not in copied and p not in initial}
    values = {p: value for p, value in saved.items() if p in wanted or p not in like}
    unfit = _unfit(*({p: x for p, x in side.items() if p not in rows} for side in (values, wanted)))
    if unfit:
        raise ValueError("; ".join(unfit) + ".")
    told = [
        f"taken    {len(values)} of the {len(saved) + len(left)} arrays there",
        *left_lines(left, [*saved]),
        *copied_lines(copied, [*values, *initial]),
        *initial_lines(initial, [*values, *copied]),
    ]
    return Start(values, copied, initial, told, rows=rows)


def _why_left(path: str, dispensable: Mapping[str, str]) -> str | None:
    inner = path.partition("/")[2]
    return next((why for p, why in dispensable.items() if paths.matches(inner, (p,))), None)


def left_lines(left: Mapping[str, str], others: Collection[str]) -> list[str]:
    """What the user should know of what is not taken over, a line for each reason."""
    return [
        f"left     {len(own)}: {why} ({few(paths.modules(own, others))})"
        for why, own in by_reason(left).items()
    ]


def copied_lines(copied: Mapping[str, str], others: Collection[str]) -> list[str]:
    """What the user should know of copies, a line for each module; `others` are all other paths."""
    lines = []
    for module in paths.modules(copied, others):
        own = [path for path in copied if f"{path.partition('/')[2]}/".startswith(f"{module}/")]
        below = own[0].partition("/")[2].removeprefix(module)
        source = copied[own[0]].partition("/")[2].removesuffix(below)
        lines.append(f"copied   {len(own)}: {module} starts as a copy of {source}")
    return lines


def initial_lines(initial: Mapping[str, str], others: Collection[str]) -> list[str]:
    """The same of what starts from its initialiser, a line for each reason."""
    return [
        f"initial  {len(own)}: {why} ({few(paths.modules(own, others))})"
        for why, own in by_reason(initial).items()
    ]


def untrained_lines(untrained: Collection[str], start: Start) -> list[str]:
    """The same of what an import had not found in its file."""
    if not untrained:
        return []
    names = few(
        paths.modules(untrained, {*start.values, *start.copied, *start.initial} - {*untrained})
    )
    return [
        f"initial  {len(untrained)}: as the imported file had none, and nobody has trained them since ({names})"
    ]


def by_reason(names: Mapping[str, str]) -> dict[str, list[str]]:
    """name -> reason, the other way round."""
    found: dict[str, list[str]] = {}
    for name, why in names.items():
        found.setdefault(why, []).append(name)
    return found


def few(names: Sequence[str]) -> str:
    """The first `SHOWN` names."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _unfit(saved: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What only one of them has, or in another shape; parameters first."""
    there = {path: tuple(np.shape(value)) for path, value in saved.items()}
    names = sorted(dict.fromkeys([*wanted, *there]), key=lambda p: not p.startswith("params"))
    faults = [
        f"{name} is {_shape(there.get(name))} there and {_shape(wanted.get(name))} here"
        for name in names
        if there.get(name) != wanted.get(name)
    ]
    more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    return faults[:SHOWN] + more


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else f"of shape {shape}"
