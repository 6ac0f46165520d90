"""Random choice of the candidates that enter a loss."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key


class Sample(NamedTuple):
    """`num` chosen candidates. Positives come first. Where `valid` is False the slot is empty and
    its index is 0.
    """

    index: Int[Array, "num"]
    positive: Bool[Array, "num"]
    valid: Bool[Array, "num"]


def max_positives(num: int, positive_fraction: float) -> int:
    """How many of `num` samples can be positive."""
    return int(num * positive_fraction)


def sample(
    key: Key[Array, ""], labels: Int[Array, "M"], num: int, positive_fraction: float
) -> Sample:
    """Draws at most `num` candidates, uniformly and without replacement.

    At most `max_positives(num, positive_fraction)` positives are drawn; they take the first slots.
    Negatives fill what is left, as far as there are any. Candidates after the last labelled one do
    not change the draw.

    Args:
      key: a typed random key.
      labels: 1 positive, 0 negative, -1 never drawn.
      num: number of slots; may exceed the number of candidates.
      positive_fraction: of `num`, rounded down.
    """
    positives, negatives = labels == 1, labels == 0
    rank = jax.random.uniform(key, labels.shape)
    chosen_positives = _largest(rank, positives, max_positives(num, positive_fraction))
    chosen_negatives = _largest(rank, negatives, num)

    positive_count = jnp.minimum(positives.sum(), chosen_positives.shape[0])
    slot = jnp.arange(num)
    from_positives = slot < positive_count
    turn = slot - positive_count
    valid = from_positives | (turn < jnp.minimum(negatives.sum(), chosen_negatives.shape[0]))
    # One table, positives before negatives, so that a single gather serves both.
    table = jnp.concatenate([chosen_positives, chosen_negatives, jnp.zeros(1, jnp.int32)])
    place = jnp.where(from_positives, slot, chosen_positives.shape[0] + turn)
    index = table[jnp.where(valid, place, table.shape[0] - 1)]
    return Sample(jnp.where(valid, index, 0), from_positives, valid)


def _largest(rank: Array, member: Bool[Array, "M"], count: int) -> Int[Array, "k"]:
    return jax.lax.top_k(jnp.where(member, rank, -1.0), min(count, rank.shape[0]))[1]
