"""The largest batch that fits, with as few compilations as possible: one that gives a line, and one that proves it."""

from __future__ import annotations

import re
from collections.abc import Mapping

FIRST = (1, 2)
MOST = 6  # compilations

# Bytes planned by images a device; None: it was refused. For 0 images what a step holds anyway, if that is known.
Points = Mapping[int, int | None]


def largest(points: Points, limit: float) -> int:
    """The largest batch that was compiled and fits; 0 if none does."""
    return max((n for n, size in points.items() if _fits(size, limit)), default=0)


def next_batch(points: Points, limit: float, first: tuple[int, ...] = FIRST) -> int | None:
    """The batch to compile next; None where the largest is known, or well enough.

    Those of `first` come first, while they fit. A line through the two largest of which the size is known then says how
    many would fit, and that is compiled. One that fits ends the search; after one that does not, a line on either side
    of the limit says another, or the middle if the compiler did not say how much it had planned, until a tenth more
    does not fit.
    """
    fit = largest(points, limit)
    over = min((n for n, size in points.items() if not _fits(size, limit)), default=None)
    if over is None:
        for batch in first:
            if batch not in points:
                return batch
        if sum(n > 0 for n in points) > len(first) or len(points) < 2:
            return None
    elif over - fit <= max(1, over // 10) or len(points) >= MOST:
        return None
    known = sorted((n, size) for n, size in points.items() if size is not None)
    around = [p for p in known if over is None or p[0] <= over][-2:]
    if len(around) < 2 or (over is not None and points[over] is None):
        guess = (fit + over) // 2 if over is not None else fit + 1
    else:
        guess = _on_line(*around, limit)
    guess = max(guess, fit + 1)
    return min(guess, over - 1) if over is not None else guess


def asked(message: str) -> int | None:
    """Bytes that a compiler would have needed, where its error says so."""
    found = re.search(r"(?:Used |temporaries \()([\d.]+)([KMGT])", message)
    return found and int(float(found[1]) * 1024 ** ("KMGT".index(found[2]) + 1))


def _fits(size: int | None, limit: float) -> bool:
    return size is not None and size <= limit


def _on_line(one: tuple[int, int], two: tuple[int, int], limit: float) -> int:
    (a, size_a), (b, size_b) = one, two
    slope = (size_b - size_a) / (b - a)
    if slope <= 0:  # the compiler had room to spare: twice as many say more
        return 2 * b
    return int(a + (limit - size_a) // slope)
