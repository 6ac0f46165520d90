"""Class layers out of weights for other classes: which rows become which, by the classes' names.

`config.init_classes` says how: "" (class layers start anew where the classes differ), "by_name", or
"by_name,rider=person,...", where a class of ours that the weights lack starts as one of theirs. Rows of classes without
counterpart keep their initial values; background's row is taken where both have one.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxseg import methods

KEY = "config.init_classes"
SHOWN = 100  # names that an error lists
_ALLOWED = (
    "allowed are '' (class layers start anew where the classes differ), 'by_name', and 'by_name,OURS=THEIRS,...' with "
    "classes that the weights lack and those that they are to start as, e.g. by_name,rider=person"
)


@dataclasses.dataclass(frozen=True)
class Rows:
    """What of an array of ours comes from which part of one of theirs: an index for each axis of both."""

    ours: tuple[np.ndarray, ...]
    theirs: tuple[np.ndarray, ...]
    whole: bool  # nothing of ours keeps its initial value

    def into(self, fresh: np.ndarray, saved: np.ndarray) -> np.ndarray:
        """A copy of `fresh` with what is taken from `saved`."""
        made = np.array(fresh)
        made[np.ix_(*self.ours)] = saved[np.ix_(*self.theirs)]
        return made


def parse(text: str) -> dict[str, str] | None:
    """The stand-ins that `config.init_classes` names, ours -> theirs; None: it is empty.

    Raises:
      ValueError: another form, or two stand-ins for one class.
    """
    if not isinstance(text, str):
        raise ValueError(f"{KEY}={text!r}: {_ALLOWED}.")
    if not text:
        return None
    first, *pairs = (part.strip() for part in text.split(","))
    found: dict[str, str] = {}
    for pair in pairs:
        ours, given, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and given and theirs):
            raise ValueError(f"{KEY}={text!r}: {pair!r} is not OURS=THEIRS; {_ALLOWED}.")
        if ours in found:
            raise ValueError(f"{KEY}={text!r}: two sources for {ours!r}; give one.")
        found[ours] = theirs
    if first != "by_name":
        raise ValueError(f"{KEY}={text!r}: {_ALLOWED}.")
    return found


def choose(text: str, ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, ...]:
    """The class of theirs that each of ours starts as, -1 for none. `text` is not empty.

    With the same names in another order nothing needs a stand-in, so that none counts.

    Raises:
      ValueError: a stand-in is given for a class that the data set lacks or that the weights have, or it is none of
        theirs; or no class of ours has a counterpart.
    """
    stand_ins = parse(text) or {}
    for name in stand_ins:
        if name not in ours:
            raise ValueError(f"{KEY}={text!r}: {_nobody(name, 'the data set', ours)}")
    if set(ours) == set(theirs):
        stand_ins = {}
    for name, other in stand_ins.items():
        if name in theirs:
            raise ValueError(
                f"{KEY}={text!r}: two sources for {name!r}, which the weights have themselves; leave {name}={other} "
                "out."
            )
        if other not in theirs:
            raise ValueError(f"{KEY}={text!r}: {_nobody(other, 'the weights', theirs)}")
    position = {name: i for i, name in enumerate(theirs)}
    found = tuple(position.get(stand_ins.get(name, name), -1) for name in ours)
    if max(found, default=-1) < 0:
        raise ValueError(
            f"{KEY}={text!r}: no class of the data set ({_listed(ours)}) is among those of the weights "
            f"({_listed(theirs)}). Name counterparts (by_name,OURS=THEIRS), or leave {KEY} empty: class layers then "
            "start anew."
        )
    return found


def between(
    text: str,
    ours: Sequence[str],
    theirs: Sequence[str],
    like: Mapping[str, Sequence[int]],
    saved: Mapping[str, np.ndarray],
) -> tuple[dict[str, Rows], list[str]]:
    """(how our class layers are made out of theirs, what the user should know of it).

    Args:
      text: `config.init_classes`, not empty.
      ours, theirs: names of classes.
      like: shapes of our class layers by path.
      saved: all variables of the weights.

    Raises:
      ValueError: see `choose`.
    """
    chosen = choose(text, ours, theirs)
    shapes = {path: np.shape(saved[path]) for path in like if path in saved}
    rows = of_layers(like, shapes, chosen, len(theirs))
    return rows, lines(ours, theirs, chosen) if rows else []


def of_layers(
    like: Mapping[str, Sequence[int]],
    saved: Mapping[str, Sequence[int]],
    chosen: Sequence[int],
    count: int,
) -> dict[str, Rows]:
    """How each class layer is made out of theirs; one that they lack, or whose shape is of another kind, is left out.

    Args:
      like: shapes of our class layers by path.
      saved: shapes of theirs.
      chosen: see `choose`.
      count: the number of their classes.
    """
    found = {
        path: _of_layer(path, tuple(shape), tuple(saved[path]), chosen, count)
        for path, shape in like.items()
        if path in saved
    }
    return {path: rows for path, rows in found.items() if rows is not None}


def resized(
    shapes: Mapping[str, tuple[int, ...]], layers: Iterable[str], ours: int, theirs: int
) -> dict[str, tuple[int, ...]]:
    """The shapes of a model whose class layers, `layers`, are for `theirs` classes instead of `ours`."""
    found = dict(shapes)
    for path in layers:
        each = methods.class_axes(path)
        shape, last = shapes[path], len(shapes[path])
        found[path] = tuple(
            size + each.get(axis - last, 0) * (theirs - ours) for axis, size in enumerate(shape)
        )
    return found


def lines(ours: Sequence[str], theirs: Sequence[str], chosen: Sequence[int]) -> list[str]:
    """What the user should know of a choice."""
    named = [name for name, i in zip(ours, chosen, strict=True) if i >= 0 and theirs[i] == name]
    others = [
        f"{name} as {theirs[i]}"
        for name, i in zip(ours, chosen, strict=True)
        if i >= 0 and theirs[i] != name
    ]
    new = [name for name, i in zip(ours, chosen, strict=True) if i < 0]
    told = ", ".join([f"{len(named)} of {len(ours)} start as those of their names", *others])
    return [f"classes  {told}", *([f"initial  rows of classes: {_few(new)}"] if new else [])]


def _of_layer(
    path: str, like: tuple[int, ...], saved: tuple[int, ...], chosen: Sequence[int], count: int
) -> Rows | None:
    if len(like) != len(saved):
        return None
    each = methods.class_axes(path)
    axes = []
    for axis, sizes in enumerate(zip(like, saved, strict=True)):
        rows = each.get(axis - len(like), 0)
        rests = sizes[0] - rows * len(chosen), sizes[1] - rows * count
        # A ranking criterion has no background, so that its classifier is one row shorter.
        background = path.rpartition("/")[0].endswith("/classes") and {*rests} == {0, 1}
        if min(rests) < 0 or (rests[0] != rests[1] and not background):
            return None
        axes.append(_axis(rows, chosen, count, min(rests)))
    ours, theirs = zip(*axes, strict=True)
    return Rows(ours, theirs, math.prod(map(len, ours)) == math.prod(like))


def _axis(each: int, chosen: Sequence[int], count: int, rest: int) -> tuple[np.ndarray, np.ndarray]:
    """The entries of ours and of theirs along an axis: `each` a class, then `rest` that belong to none."""
    chosen = np.asarray(chosen, np.int64)
    taken = np.flatnonzero(chosen >= 0)

    def entries(classes, total):
        own = (classes[:, None] * each + np.arange(each)).reshape(-1)
        return np.concatenate([own, total * each + np.arange(rest)])

    return entries(taken, len(chosen)), entries(chosen[taken], count)


def _nobody(name: str, who: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"{name!r} is none of the classes of {who}{hint}: {_listed(known)}."


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
