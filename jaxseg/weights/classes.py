"""Class surgery: which rows of a file's class layers become ours.

Files have `count` classes. Class i of a file is its i-th without background, from 0: torchvision's label i + 1, the
class i of Detectron2 and MMDetection.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxseg.weights import coco_categories

Choice = str | Sequence[int]
WORDS = "all, coco80, none, or class numbers of the file such as 0,2,5"


@dataclasses.dataclass(frozen=True)
class Classes:
    """`chosen` of `count` classes of a file, in our order."""

    count: int
    chosen: tuple[int, ...]
    background_first: bool

    def rows(self, kind: str) -> tuple[np.ndarray, int]:
        """(the file's row of each output of ours, the number of rows there) for a kind of class layer.

        Where background comes first, it has a map and a box of its own; they are not among our rows.
        """
        first = int(self.background_first)
        foreground = np.asarray(self.chosen, np.int64) + first
        if kind == "classes":
            background = 0 if first else self.count
            return np.append(foreground, background), self.count + 1
        if kind == "boxes":
            rows = foreground[:, None] * 4 + np.arange(4)
            return rows.reshape(-1), (self.count + first) * 4
        return foreground, self.count + first


def everything(count: int, background_first: bool) -> Classes:
    """All classes in their order."""
    return Classes(count, tuple(range(count)), background_first)


def choose(choice: Choice, count: int, wanted: int, background_first: bool) -> Classes | None:
    """What `choice` means for a file of `count` classes and a model of `wanted` (0: as many as chosen).

    Returns:
      None if the class layers are to keep their initial values.

    Raises:
      ValueError: the numbers do not fit, or there is no such choice; the message says what to pass.
    """
    if isinstance(choice, str) and choice == "none":
        return None
    if isinstance(choice, str):
        if choice not in ("all", "coco80"):
            raise ValueError(f"classes={choice!r}: allowed are {WORDS}.")
        chosen = tuple(range(count)) if choice == "all" else _coco80(count)
    else:
        chosen = tuple(choice)
        outside = [c for c in chosen if isinstance(c, bool) or not 0 <= c < count]
        if outside or not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(
                f"classes={chosen}: the file has {count} classes, so that different numbers from 0 to {count - 1} are "
                "wanted."
            )
    if wanted not in (0, len(chosen)):
        raise ValueError(_other_number(choice, count, len(chosen), wanted))
    return Classes(count, chosen, background_first)


def parse(text: str) -> Choice:
    """The choice that a command line gives: a word, or numbers separated by commas.

    Raises:
      ValueError: neither.
    """
    if text in ("all", "coco80", "none"):
        return text
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"classes={text!r}: allowed are {WORDS}.") from None


def _coco80(count: int) -> tuple[int, ...]:
    """The classes of COCO's 80 in a file of that many classes."""
    if count == len(coco_categories.COCO80):
        return tuple(range(count))
    if count == len(coco_categories.TORCHVISION90):
        return tuple(c.id - 1 for c in coco_categories.COCO80)
    raise ValueError(
        f"classes='coco80' is for files with torchvision's 90 labels or COCO's 80 classes; this one has {count} "
        "classes. Choose 'none' (new class layers) or the numbers of the classes to take."
    )


def _other_number(choice: Choice, count: int, chosen: int, wanted: int) -> str:
    ways = ["classes='none' for new class layers"]
    if wanted <= count:
        ways.append(f"a tuple of {wanted} numbers of the classes to take")
    if count == len(coco_categories.TORCHVISION90) and wanted == len(coco_categories.COCO80):
        ways.insert(0, "classes='coco80' for the 80 of torchvision's 90 labels that COCO uses")
    return (
        f"classes={choice!r} gives {chosen} of the {count} classes of the file, and the config has "
        f"model.num_classes={wanted}. Pass {', or '.join(ways)}; or set model.num_classes={chosen}."
    )
