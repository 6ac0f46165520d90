"""Sampling: counts, order, uniqueness, uniformity, and indifference to padding."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.ops import sampling

LENGTH = 24  # of every label vector here, so that each configuration compiles once
draw = jax.jit(sampling.sample, static_argnames=("num", "positive_fraction"))


def padded(labels):
    return jnp.asarray(list(labels) + [-1] * (LENGTH - len(labels)), jnp.int8)


def check(sample, labels, num, fraction):
    """Everything the contract of `sample` says about one draw."""
    index, positive, valid = (np.asarray(x) for x in sample)
    labels = np.asarray(labels)
    expected_positives = min((labels == 1).sum(), int(num * fraction))
    expected_negatives = min((labels == 0).sum(), num - expected_positives)
    assert positive.sum() == expected_positives and positive[:expected_positives].all()
    assert valid.sum() == expected_positives + expected_negatives
    assert (np.diff(valid.astype(int)) <= 0).all(), "valid slots come first"
    assert len(set(index[valid])) == valid.sum(), "an index is drawn twice"
    assert (labels[index[positive]] == 1).all() and (labels[index[valid & ~positive]] == 0).all()
    assert (index[~valid] == 0).all()


def test_case_of_torchvision():
    labels = padded([0] * 6 + [1] * 3 + [-1] * 2)
    sample = draw(jax.random.key(0), labels, num=4, positive_fraction=0.25)
    check(sample, labels, 4, 0.25)
    assert 6 <= sample.index[0] < 9 and (sample.index[1:] < 6).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([-1, 0, 1]), max_size=LENGTH),
    st.integers(0, 2**31 - 1),
    st.sampled_from([(8, 0.5), (9, 0.25), (40, 0.5), (6, 1.0), (6, 0.0)]),
)
def test_every_draw_keeps_the_rules(labels, seed, setting):
    num, fraction = setting
    labels = padded(labels)
    sample = draw(jax.random.key(seed), labels, num=num, positive_fraction=fraction)
    check(sample, labels, num, fraction)


def test_uniform():
    labels = padded([1] * 8 + [0] * 12)
    keys = jax.random.split(jax.random.key(7), 4000)
    sample = jax.jit(
        jax.vmap(lambda key: sampling.sample(key, labels, num=8, positive_fraction=0.5))
    )(keys)
    counts = np.bincount(np.asarray(sample.index).ravel(), minlength=LENGTH)
    # 4 of 8 positives and 4 of 12 negatives a draw. Five standard deviations of a binomial count.
    for members, p in ((slice(0, 8), 1 / 2), (slice(8, 20), 1 / 3)):
        assert np.abs(counts[members] - 4000 * p).max() < 5 * np.sqrt(4000 * p * (1 - p))
    assert (counts[20:] == 0).all()


def test_slots_are_uniform_too():
    labels = padded([1] * 4)
    keys = jax.random.split(jax.random.key(1), 4000)
    first = jax.jit(
        jax.vmap(lambda key: sampling.sample(key, labels, num=4, positive_fraction=0.5).index[0])
    )(keys)
    counts = np.bincount(np.asarray(first), minlength=4)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(4000 * 3 / 16)


def test_candidates_added_at_the_end_change_nothing():
    labels = jnp.asarray([1, 0, 0, -1, 1, 0, 0, 1, 0, 0], jnp.int8)
    args = dict(num=6, positive_fraction=0.5)
    short, long = (
        draw(jax.random.key(3), labels, **args),
        draw(jax.random.key(3), padded(labels.tolist()), **args),
    )
    for a, b in zip(short, long, strict=True):
        np.testing.assert_array_equal(a, b)


def test_batches_and_steps_differ():
    labels = padded([0] * LENGTH)
    f = partial(draw, num=8, positive_fraction=0.5)
    a, b = f(jax.random.key(0), labels), f(jax.random.key(1), labels)
    assert set(a.index.tolist()) != set(b.index.tolist())
    np.testing.assert_array_equal(a.index, f(jax.random.key(0), labels).index)
