"""How to read the numbers of a table: what the statistics mean, and what they cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxseg.reproduce import statistics

_DIFFERENCES = (
    "A difference is taken seed by seed and averaged. Its 95 % interval is Student's for paired differences; it is "
    "bold where the interval leaves out 0. An interval that contains 0 does not show that two rows are equal: the "
    "smallest detectable difference says how large a true one must be for a design like this (so many pairs with this "
    "spread) to show it in 80 % of repetitions. Smaller ones are likely to go unseen. It rests on the measured spread "
    "and is as uncertain as that."
)


def paragraphs(found: Mapping[str, Any]) -> list[str]:
    """The explanation that goes with the content of results.json; only what concerns it."""
    counts = [m["count"] for row in found["rows"] for m in row["metrics"].values() if m]
    compared = [row["difference"]["metrics"].values() for row in found["rows"] if row["difference"]]
    with_interval = sum(any(pair["low"] is not None for pair in pairs) for pairs in compared)
    text = [_spread(max(counts, default=0))]
    if with_interval:
        text += [_DIFFERENCES, *_many(with_interval)]
    if any(row["published"] for row in found["rows"]):
        text.append(
            "Published numbers are single runs of other code: compare the difference to the baseline with the "
            "published difference rather than the absolute numbers."
        )
    return [part for part in text if part]


def _spread(count: int) -> str:
    if count == 0:
        return ""
    if count == 1:
        return (
            "Every row was run with one seed. How far another seed would fall from it is not known, so differences "
            "between rows cannot be told from chance: run more seeds (--seeds=3)."
        )
    low, high = statistics.sd_factors(count)
    return (
        f"A seed decides the initial weights, the order of the images and the random sampling. ± is the standard "
        f"deviation over the seeds (with n - 1); from {count} values it is itself uncertain: the true one is "
        f"{low:.2f} to {high:.1f} times as much (95 %)."
    )


def _many(count: int) -> list[str]:
    if count < 2:
        return []
    chance = 1 - statistics.CONFIDENCE**count
    return [
        f"{count} rows are compared with a baseline and the intervals are not widened for it: if no row differed at "
        f"all, one or more would still stand out in a column with a chance of up to {chance:.0%}."
    ]
