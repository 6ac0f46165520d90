"""Settings of the criterion of ranking losses, `model.criterion.rank_sort`."""

from __future__ import annotations

from jaxseg.methods import settings

RULES = {
    "criterion.rank_sort.group": settings.whole(1),
    "criterion.rank_sort.delta": settings.number(0.0),
    "criterion.rank_sort.max_positives": settings.whole(1),
    "criterion.rank_sort.balance_masks": settings.FLAG,
}
DEFAULTS = {"group": 2, "delta": 0.5, "balance_masks": True}  # `max_positives` belongs to the scale


def check(config) -> None:
    """Raises ValueError for settings that are missing or have no effect, and for groups that leave images over."""
    criterion, key = config.model.criterion, "config.model.criterion"
    used = f"{key}.name={criterion.name!r}"
    if criterion.name != "rank_sort":
        if "rank_sort" in criterion:
            settings.check_unused(f"{key}.rank_sort", criterion.rank_sort, DEFAULTS, used)
        return
    if "rank_sort" not in criterion:
        raise settings.missing(f"{key}.rank_sort", used)
    group = criterion.rank_sort.group
    images = config.train.batch_size // config.optim.accumulate
    if images % group:
        raise ValueError(
            f"{key}.rank_sort.group={group} images are ranked together, which does not divide the {images} that are "
            f"computed at once (config.train.batch_size={config.train.batch_size}, config.optim.accumulate="
            f"{config.optim.accumulate}); allowed are the divisors of {images}."
        )
