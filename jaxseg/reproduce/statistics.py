"""What a few seeds can say: mean and spread, paired differences with an interval, and what would have gone unseen.

Textbook statistics of normally distributed values: Student's interval of paired differences, and the power of the
two-sided paired t test from the noncentral t distribution (Cohen, Statistical Power Analysis, 2nd ed., chapter 2).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

from scipy import optimize, stats

CONFIDENCE = 0.95  # of intervals; a difference counts as seen where its interval leaves out 0
NO_SPREAD = 1e-12  # of fractions: what rounding alone leaves
POWER = 0.8  # the chance to see the smallest detectable difference


@dataclasses.dataclass(frozen=True)
class Summary:
    """Values of several seeds.

    Attributes:
      count: how many.
      mean: theirs.
      sd: their standard deviation, with n - 1 below; None for one value, which has no spread.
    """

    count: int
    mean: float
    sd: float | None


@dataclasses.dataclass(frozen=True)
class Difference(Summary):
    """Differences of two rows, paired by seed. What needs a spread is None for a single pair, and for equal pairs.

    Attributes:
      low, high: the 95 % interval of the mean difference (Student, n - 1 degrees of freedom).
      detectable: the smallest true difference that a design of this many pairs, with this spread, would have shown
        (an interval without 0) with a chance of 80 %.
    """

    low: float | None
    high: float | None
    detectable: float | None


def summary(values: Sequence[float]) -> Summary | None:
    """Mean and standard deviation; None without values."""
    if not values:
        return None
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Summary(1, mean, None)
    return Summary(count, mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1)))


def difference(
    ours: Mapping[int, float], theirs: Mapping[int, float], confidence: float = CONFIDENCE
) -> Difference | None:
    """`ours` - `theirs`, seed by seed, of the seeds that both have; None if there is none.

    Args:
      ours, theirs: seed -> value.
      confidence: of the interval.
    """
    seeds = sorted(set(ours) & set(theirs))
    found = summary([ours[seed] - theirs[seed] for seed in seeds])
    if found is None:
        return None
    if found.sd is None or found.sd <= NO_SPREAD:
        # An interval without width would claim certainty; two seeds with an AP of 0 each have shown nothing.
        sd = None if found.sd is None else 0.0
        return Difference(found.count, found.mean, sd, None, None, None)
    half = critical(found.count, confidence) * found.sd / math.sqrt(found.count)
    smallest = detectable(found.count, found.sd, confidence=confidence)
    return Difference(
        found.count, found.mean, found.sd, found.mean - half, found.mean + half, smallest
    )


def critical(count: int, confidence: float = CONFIDENCE) -> float:
    """How many standard errors an interval of `count` values reaches to either side."""
    return float(stats.t.ppf((1 + confidence) / 2, count - 1))


def power(count: int, sd: float, true: float, confidence: float = CONFIDENCE) -> float:
    """The chance that the interval of `count` differences leaves out 0 if the true difference is `true`.

    Args:
      count: pairs, at least 2.
      sd: the standard deviation of a difference, > 0.
    """
    t, shift = critical(count, confidence), abs(true) * math.sqrt(count) / sd
    right = float(stats.nct.sf(t, count - 1, shift))
    # To be seen on the wrong side, the mean must lie there: less likely than 1e-12, where SciPy's cdf may be NaN.
    wrong = float(stats.nct.cdf(-t, count - 1, shift)) if shift < 7 else 0.0
    return right + wrong


def detectable(
    count: int, sd: float, chance: float = POWER, confidence: float = CONFIDENCE
) -> float:
    """The true difference whose `power` is `chance`, in the units of `sd`."""
    return sd * _detectable_in_sds(count, chance, confidence)


@functools.lru_cache
def _detectable_in_sds(count: int, chance: float, confidence: float) -> float:
    high = 1.0
    while power(count, 1.0, high, confidence) < chance:
        high *= 2
    return float(
        optimize.brentq(lambda true: power(count, 1.0, true, confidence) - chance, 0.0, high)
    )


def sd_factors(count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Between which multiples of a standard deviation measured on `count` values the true one lies."""
    outside = (1 - confidence) / 2
    return tuple(
        math.sqrt((count - 1) / float(stats.chi2.ppf(q, count - 1))) for q in (1 - outside, outside)
    )
