"""Rank & Sort loss (Oksuz et al., ICCV 2021): positives above negatives, and positives in the order of their labels.

For a positive i with logit s_i and label y_i (its IoU), H_ij in [0, 1] says how far j is above i:

  H_ij = clip((s_j - s_i) / (2 delta) + 1/2, 0, 1)                        delta = 0: 1 where s_j >= s_i, else 0
  F_i  = sum over negatives of H_ij,   R_i = sum over positives of H_ij   (itself counts 1/2)
  ranking error   F_i / (F_i + R_i)
  sorting error   the mean of 1 - y_j over positives, weighted by H_ij, minus the same over those with y_j >= y_i

The loss is the mean over positives of both. Its gradient is not that of these formulas: each error of i is moved from i
to those that cause it, in proportion to their H_ij ("identity update"), so that it sums to 0.

Positives are compared with each other in tiles, O(P^2). Negatives enter through two sums over all pairs alone, F_i and
sum over i of H_in / (F_i + R_i), for which there are two ways: `dense`, in tiles, O(P N); `sorted`, where each negative
is looked up among sorted positives, O(N log P + P^2). Memory is O(P + N) and a tile.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxseg import precision

FORMS = ("sorted", "dense")
ROWS, COLUMNS = 64, 4096  # of a tile
_EPSILON = 1e-10


def rank_sort(
    logits: Float[ArrayLike, "N"],
    targets: Float[ArrayLike, "N"],
    positive: Bool[ArrayLike, "N"],
    valid: Bool[ArrayLike, "N"],
    *,
    delta: float = 0.5,
    form: str = "sorted",
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(ranking, sorting): the means of both errors over the positives of one ranking.

    The gradient of each with respect to `logits` is its own; that of their sum is the published one. There is none with
    respect to `targets`. Without positives both are 1, without a gradient.

    Args:
      logits: of all candidates, before the sigmoid; finite where `valid`.
      targets: of positives, in [0, 1]; what others hold does not matter.
      positive: which candidates are positives, any number of them; the other valid ones are negatives.
      valid: candidates that take part. What others hold does not matter.
      delta: half the width of the step H, >= 0.
      form: sorted or dense.

    Raises:
      ValueError: delta < 0, or another form.
    """
    if not delta >= 0:
        raise ValueError(f"delta={delta}: allowed is a number >= 0.")
    if form not in FORMS:
        raise ValueError(f"form={form!r}: allowed are {', '.join(FORMS)}.")
    logits, targets, positive, valid = map(jnp.asarray, (logits, targets, positive, valid))
    if not logits.size:
        return jnp.ones(()), jnp.ones(())
    logits = jnp.where(valid, precision.at_least_float32(logits), 0.0)
    positive = positive & valid
    targets = jnp.where(positive, jax.lax.stop_gradient(targets).astype(logits.dtype), 0.0)
    return _rank_sort(float(delta), form, logits, targets, positive, valid & ~positive)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rank_sort(delta, form, logits, targets, positive, negative):
    return _forward(delta, form, logits, targets, positive, negative)[0]


def _forward(delta, form, logits, targets, positive, negative):
    """((ranking, sorting), the gradient of each)."""
    count = positive.sum()
    order = _positives(logits, positive, count)
    own, labels = logits[order], targets[order]
    there = jnp.arange(len(order)) < count
    step = functools.partial(_step, delta)
    against = {"dense": _Dense, "sorted": _Sorted}[form](delta, own, count, logits, negative)

    false = jnp.where(there, against.above(), 0.0)  # F_i
    rank, sort, to_positives = _compare_positives(step, own, labels, there, count, false)
    error = jnp.where(there, false * rank, 0.0)
    scale = 1.0 / jnp.maximum(count, 1)
    # F_i / rank_i is moved to the negatives by H_in / F_i: each gets H_in / rank_i.
    share = jnp.where(there & (false > _EPSILON), rank, 0.0)
    to_negatives = against.spread(share)
    zero = jnp.zeros_like(logits)
    ranking = zero.at[order].add(-false * share) + to_negatives
    sorting = zero.at[order].add(to_positives)
    values = tuple(jnp.where(count > 0, x.sum() * scale, 1.0) for x in (error, sort))
    return values, (ranking * scale, sorting * scale)


def _backward(delta, form, gradients, cotangents):
    del delta, form
    return sum(c * g for c, g in zip(cotangents, gradients, strict=True)), None, None, None


_rank_sort.defvjp(_forward, _backward)


def _step(delta: float, difference: Array) -> Array:
    """H of s_j - s_i."""
    if delta == 0:
        return (difference >= 0).astype(difference.dtype)
    return jnp.clip(difference / (2 * delta) + 0.5, 0.0, 1.0)


def _rows(x: Array, tile: Array, size: int = ROWS) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, tile * size, size)


def _columns(x: Array, tile: Array) -> Array:
    return _rows(x, tile, COLUMNS)


def _put(x: Array, tile: Array, rows: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(x, rows, tile * len(rows), 0)


def _over(count: Array, size: int, body, start):
    """Folds `body(tile, carry)` over the tiles that hold `count` entries."""
    return jax.lax.fori_loop(0, -(-count // size), body, start)


def _positives(logits, positive, count):
    """The places of positives by ascending logit, padded to a multiple of a tile by anything.

    A sort of all candidates would take longer than all the rest: their order among each other is counted instead.
    """
    size = len(logits)
    place = jnp.where(positive, jnp.cumsum(positive) - 1, size + COLUMNS)
    order = jnp.zeros(size + -size % COLUMNS, jnp.int32)
    order = order.at[place].set(jnp.arange(size, dtype=jnp.int32), mode="drop")
    own, index = logits[order], jnp.arange(len(order))

    def tile(row, ranks):
        s, i = _rows(own, row)[:, None], _rows(index, row)[:, None]

        def below(block, total):
            other, j = _columns(own, block), _columns(index, block)
            lower = (other < s) | ((other == s) & (j < i))
            return total + (lower & (j < count)).sum(1, dtype=jnp.int32)

        return _put(ranks, row, _over(count, COLUMNS, below, jnp.zeros(ROWS, jnp.int32)))

    ranks = _over(count, ROWS, tile, jnp.zeros_like(order))
    return order.at[jnp.where(index < count, ranks, len(order))].set(order, mode="drop")


def _compare_positives(step, own, labels, there, count, false):
    """1 / (F_i + R_i), the sorting errors, and what they move (all 0 where `there` is False)."""

    def tile(index, carry):
        inverse, errors, moved = carry
        row = functools.partial(_rows, tile=index)
        s, y, exists = row(own)[:, None], row(labels)[:, None], row(there)

        def columns(block, sums):
            column = functools.partial(_columns, tile=block)
            h = step(column(own) - s) * (column(there) & exists[:, None])
            better = h * (column(labels) >= y)
            missing = 1.0 - column(labels)
            parts = h.sum(1), (h * missing).sum(1), better.sum(1), (better * missing).sum(1)
            return tuple(a + b for a, b in zip(sums, parts, strict=True))

        zeros = jnp.zeros(ROWS, own.dtype)
        above, lost, best, least = _over(count, COLUMNS, columns, (zeros,) * 4)
        error = _ratio(lost, above) - _ratio(least, best)
        worse = above - best
        share = jnp.where(worse > _EPSILON, _ratio(error, worse), 0.0)

        def spread(block, moved):
            column = functools.partial(_columns, tile=block)
            h = step(column(own) - s) * (column(there) & exists[:, None])
            causes = h * (column(labels) < y)
            return _put(moved, block, column(moved) + (share[:, None] * causes).sum(0))

        moved = _over(count, COLUMNS, spread, moved)
        moved = _put(moved, index, row(moved) - share * worse)
        return (
            _put(inverse, index, jnp.where(exists, _ratio(1.0, row(false) + above), 0.0)),
            _put(errors, index, jnp.where(exists, error, 0.0)),
            moved,
        )

    zero = jnp.zeros_like(own)
    return _over(count, ROWS, tile, (zero, zero, zero))


def _ratio(a, b):
    return a / jnp.maximum(b, _EPSILON)


class _Dense:
    """Sums over pairs of a positive and a negative, in tiles."""

    def __init__(self, delta: float, own: Array, count: Array, logits: Array, negative: Array):
        self.step, self.own, self.count = functools.partial(_step, delta), own, count
        self.size, pad = len(logits), (0, -len(logits) % COLUMNS)
        self.logits, self.there = jnp.pad(logits, pad), jnp.pad(negative, pad)

    def _pairs(self, index: Array, block: Array) -> Array:
        difference = _columns(self.logits, block) - _rows(self.own, index)[:, None]
        return self.step(difference) * _columns(self.there, block)

    def above(self) -> Array:
        """F_i: how many negatives are above each positive."""

        def tile(index, found):
            start = jnp.zeros(ROWS, self.own.dtype)
            add = lambda block, total: total + self._pairs(index, block).sum(1)  # noqa: E731
            return _put(found, index, _over(jnp.int32(self.size), COLUMNS, add, start))

        return _over(self.count, ROWS, tile, jnp.zeros_like(self.own))

    def spread(self, share: Array) -> Array:
        """The sum over positives of share_i H_in, for each negative; 0 for others."""

        def tile(block, found):
            def add(index, total):
                return total + _rows(share, index) @ self._pairs(index, block)

            start = jnp.zeros(COLUMNS, self.own.dtype)
            return _put(found, block, _over(self.count, ROWS, add, start))

        found = _over(jnp.int32(self.size), COLUMNS, tile, jnp.zeros_like(self.logits))
        return found[: self.size]


class _Sorted:
    """The same sums by way of what all negatives have in common that are near the same positives.

    Of positives by ascending logit a negative is above the first `done` by delta or more, and less than delta below the
    first `begun`: H is 1, then between 0 and 1, then 0. There are at most 2 P + 1 such bins, and in each H is linear.

    Nothing is a difference of large sums: those of a million float32 logits would leave no digit of a small one.
    """

    def __init__(self, delta: float, own: Array, count: Array, logits: Array, negative: Array):
        self.delta, self.own, self.count, self.negative = delta, own, count, negative
        self.bins = _bins(delta, own, count, logits, negative)

    def above(self) -> Array:
        """F_i: how many negatives are above each positive."""
        bins = self.bins
        after = jnp.flip(jnp.cumsum(jnp.flip(bins.completed)))  # whole numbers: exact

        def tile(index, found):
            def add(block, total):
                sums = _columns(bins.size, block) * self._line(index, block)
                sums += _columns(bins.inner, block)
                return total + jnp.where(bins.rises(index, block), sums, 0.0).sum(1)

            start = jnp.zeros(ROWS, self.own.dtype)
            return _put(found, index, _over(bins.count, COLUMNS, add, start))

        found = after[1:].astype(self.own.dtype)
        return found + _over(self.count, ROWS, tile, jnp.zeros_like(found)) if self.delta else found

    def spread(self, share: Array) -> Array:
        """The sum over positives of share_i H_in, for each negative; 0 for others."""
        bins = self.bins
        found = jnp.append(jnp.zeros_like(share[:1]), jnp.cumsum(share))[bins.done]

        def tile(block, carry):
            def add(index, sums):
                w = jnp.where(bins.rises(index, block), _rows(share, index)[:, None], 0.0)
                line = jnp.where(w > 0, self._line(index, block), 0.0)
                return sums[0] + (w * line).sum(0), sums[1] + w.sum(0)

            zero = jnp.zeros(COLUMNS, share.dtype)
            sums = _over(self.count, ROWS, add, (zero, zero))
            return tuple(_put(a, block, b) for a, b in zip(carry, sums, strict=True))

        if self.delta:
            zero = jnp.zeros(len(bins.size), share.dtype)
            value, slope = _over(bins.count, COLUMNS, tile, (zero, zero))
            found += value[bins.of] + slope[bins.of] * bins.offset
        return jnp.where(self.negative, found, 0.0)

    def _line(self, index: Array, block: Array) -> Array:
        """H of the least negative of each bin, where it rises."""
        difference = _columns(self.bins.least, block) - _rows(self.own, index)[:, None]
        return 0.5 + difference / (2 * self.delta)


@dataclasses.dataclass(frozen=True)
class _Bins:
    """Negatives that the same positives are near.

    Attributes:
      count: of bins.
      of, done: of each candidate, its bin and how many positives it is wholly above.
      offset: of each candidate, (logit - least of its bin) / (2 delta), 0 where no H rises.
      completed: how many negatives have a `done` of 0, 1, ...
      size, least, first, last, inner: of each bin, how many negatives, the least logit, `done`, `begun`, the sum of
        `offset`.
    """

    count: Array
    of: Array
    done: Array
    offset: Array
    completed: Array
    size: Array
    least: Array
    first: Array
    last: Array
    inner: Array

    def rises(self, index: Array, block: Array) -> Array:
        """Whether H of the positives of a tile rises in the bins of a block."""
        rank = (index * ROWS + jnp.arange(ROWS))[:, None]
        return (_columns(self.first, block) <= rank) & (rank < _columns(self.last, block))


def _bins(delta: float, own: Array, count: Array, logits: Array, negative: Array) -> _Bins:
    begun = done = _how_many(own, count, logits, lambda difference: difference >= delta)
    if delta:
        begun = _how_many(own, count, logits, lambda difference: difference > -delta)
    length = 2 * len(own) + COLUMNS  # a multiple of that
    of = done + begun  # both rise with the logit, so their sum says what both are
    place = jnp.where(negative, of, length)  # others have none
    none = jnp.zeros(length, jnp.int32)
    least = jnp.full(length, jnp.inf, own.dtype).at[place].min(logits, mode="drop")
    offset = jnp.where(negative & (begun > done), logits - least[of], 0.0) / (2 * delta or 1.0)
    return _Bins(
        count=2 * count + 1,
        of=of,
        done=done,
        offset=offset,
        completed=none[: len(own) + 1].at[jnp.where(negative, done, length)].add(1, mode="drop"),
        size=none.at[place].add(1, mode="drop").astype(own.dtype),
        least=least,
        first=none.at[place].max(done, mode="drop"),
        last=none.at[place].max(begun, mode="drop"),
        inner=_sums(offset, place, length),
    )


def _how_many(own: Array, count: Array, logits: Array, holds) -> Array:
    """For each logit, of how many of the first `count`, ascending `own` its difference `holds`, the lowest ones."""

    def halve(_, found):
        low, high = found
        middle = (low + high) // 2
        lower = holds(logits - own[middle]) & (low < high)
        return jnp.where(lower, middle + 1, low), jnp.where(lower, high, middle)

    start = jnp.zeros(len(logits), jnp.int32), jnp.full(len(logits), count, jnp.int32)
    return jax.lax.fori_loop(0, 32 - jax.lax.clz(count.astype(jnp.int32)), halve, start)[0]


def _sums(shares: Array, place: Array, length: int) -> Array:
    """The sums of numbers from 0 to 1 in each place: leading digits as whole numbers, since a float32 loses them."""
    bits = 32 - len(shares).bit_length()
    total, unit = jnp.zeros(length, shares.dtype), 1.0
    for _ in range(2):
        unit *= 2.0**bits
        digits = jnp.floor(shares * 2.0**bits)
        shares = shares * 2.0**bits - digits
        whole = jnp.zeros(length, jnp.uint32).at[place].add(digits.astype(jnp.uint32), mode="drop")
        total += whole.astype(shares.dtype) / unit
    return total + jnp.zeros(length, shares.dtype).at[place].add(shares, mode="drop") / unit
