"""Rank & Sort: published numbers, a float64 form of the definition, and what must not matter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.losses import rank_sort as lib

FORMS = pytest.mark.parametrize("form", lib.FORMS)
_compiled = {}


def run(logits, targets, positive, valid=None, *, delta=0.5, form="sorted"):
    """(ranking, sorting, gradient of the one, gradient of the other)."""
    key = delta, form
    if key not in _compiled:
        loss = functools.partial(lib.rank_sort, delta=delta, form=form)

        def both(logits, *rest):
            values, pull = jax.vjp(lambda x: loss(x, *rest), logits)
            one, zero = (jnp.asarray(v, logits.dtype) for v in (1, 0))
            return *values, pull((one, zero))[0], pull((zero, one))[0]

        _compiled[key] = jax.jit(both)
    valid = np.ones(len(logits), bool) if valid is None else valid
    targets = np.resize(np.asarray(targets, np.float32), len(logits))
    arguments = (
        np.asarray(logits, np.float32),
        targets,
        np.asarray(positive, bool),
        np.asarray(valid, bool),
    )
    return [np.asarray(x, np.float64) for x in _compiled[key](*map(jnp.asarray, arguments))]


def oracle(logits, targets, positive, valid, delta):
    """The definition, positive by positive, in float64."""
    s, y = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    own, others = np.flatnonzero(positive & valid), np.flatnonzero(~positive & valid)
    step = (lambda x: np.clip(x / (2 * delta) + 0.5, 0, 1)) if delta else lambda x: (x >= 0) * 1.0
    ranking, sorting, gradients = [], [], np.zeros((2, len(s)))
    for i in own:
        among, false = step(s[own] - s[i]), step(s[others] - s[i])
        ranking.append(false.sum() / (false.sum() + among.sum()))
        better = among * (y[own] >= y[i])
        worse = among - better
        now = (among * (1 - y[own])).sum() / among.sum()
        sorting.append(now - (better * (1 - y[own])).sum() / better.sum())
        for row, error, causes, where in (
            (0, ranking[-1], false, others),
            (1, sorting[-1], worse, own),
        ):
            if causes.sum() > 1e-10:
                gradients[row, i] -= error
                gradients[row, where] += error * causes / causes.sum()
    return [np.mean(ranking), np.mean(sorting), *(gradients / len(own))]


VECTORS = {  # logits, targets of the first ones, number of positives, delta, ranking, sorting, gradient of the sum
    "paper, delta 0.5": (
        [2.0, 0.5, -0.3, 1.2, 0.1, -3.0],
        [0.6, 0.9, 0.7],
        0.5,
        0.284965,
        0.097778,
        [0.097778, -0.207692, -0.175051, 0.203963, 0.081002, 0],
    ),
    "paper, delta 0": (
        [2.0, 0.5, -0.3, 1.2, 0.1, -3.0],
        [0.6, 0.9, 0.7],
        0.0,
        0.244444,
        0.072222,
        [0.072222, -0.161111, -0.155556, 0.177778, 0.066667, 0],
    ),
    "perfect": ([3, 2, -1], [0.9, 0.8], 0.5, 0, 0, [0, 0, 0]),
    "missorted": ([3, 2, -1], [0.8, 0.9], 0.5, 0, 1 / 30, [1 / 30, -1 / 30, 0]),
    "eight, delta 0.5": (
        [2.0, 0.8, 1.0, -0.2, 0.6, 1.5, -3.0, 0.1],
        [0.5, 0.9, 0.7, 0.6],
        0.5,
        0.29879584,
        0.11812951,
        [0.09286213, -0.15422078, -0.10775465, -0.12968254, 0.06973180, 0.19731801, 0, 0.03174603],
    ),
    "eight, delta 0": (
        [2.0, 0.8, 1.0, -0.2, 0.6, 1.5, -3.0, 0.1],
        [0.5, 0.9, 0.7, 0.6],
        0.0,
        0.25297619,
        0.08958333,
        [0.06458333, -0.1125, -0.08333333, -0.12172619, 0.03571429, 0.18154762, 0, 0.03571429],
    ),
    "perfect, three": ([6, 4, 2, -1, -2], [0.9, 0.8, 0.7], 0.5, 0, 0, [0, 0, 0, 0, 0]),
    "reversed": (
        [2, 4, 6, -1, -2],
        [0.9, 0.8, 0.7],
        0.5,
        0,
        0.06222222,
        [-0.04, -0.00222222, 0.04222222, 0, 0],
    ),
    "tie": ([0, 0], [0.8], 0.5, 0.5, 0, [-0.5, 0.5]),
}


@FORMS
@pytest.mark.parametrize("name", VECTORS)
def test_published_numbers(name, form):
    logits, targets, delta, ranking, sorting, gradient = VECTORS[name]
    count = len(targets)
    junk = np.resize([99.0, -99.0], 10 - len(logits))  # of which nothing may be seen
    padded, targets = [*logits, *junk], [*targets, *[0.0] * (10 - count)]
    valid = np.arange(len(padded)) < len(logits)
    found = run(padded, targets, np.arange(len(padded)) < count, valid, delta=delta, form=form)
    np.testing.assert_allclose(found[:2], [ranking, sorting], atol=1e-6)
    np.testing.assert_allclose(found[2] + found[3], [*gradient, *0 * junk], atol=1e-6)


def drawn(scale=1.0, offset=0.0, count=3000, positives=150, seed=0):
    rng = np.random.default_rng(seed)
    positive = np.zeros(count, bool)
    positive[rng.choice(count, positives, replace=False)] = True
    logits = rng.normal(size=count) * scale + offset + scale * positive
    targets = np.where(positive, rng.random(count), 0)
    return logits.astype(np.float32), targets.astype(np.float32), positive, rng.random(count) < 0.95


@FORMS
@pytest.mark.parametrize("delta", [0.5, 0.0])
@pytest.mark.parametrize(
    ("scale", "offset"), [(1, 0), (1e-3, 0), (1e4, 0), (100, 1e4), (0.3, -5), (1e8, 0), (4, 2e7)]
)
def test_the_definition_in_float64(scale, offset, delta, form):
    """Errors to 1e-6, and the gradient times the number of positives."""
    arguments = drawn(scale, offset)
    found, expected = run(*arguments, delta=delta, form=form), oracle(*arguments, delta)
    count = (arguments[2] & arguments[3]).sum()
    np.testing.assert_allclose(found[:2], expected[:2], atol=1e-6)
    np.testing.assert_allclose(
        np.stack(found[2:]) * count, np.stack(expected[2:]) * count, atol=1e-6
    )


@FORMS
def test_in_float64_too(form):
    """With jax's 64 bits sums of whole numbers are int64 unless they are told otherwise."""
    logits, targets, positive, valid = drawn(count=300, positives=40)
    with jax.enable_x64(True):
        values = jax.jit(lambda *x: lib.rank_sort(*x, form=form))(
            jnp.asarray(logits, jnp.float64), targets, positive, valid
        )
        assert {x.dtype for x in values} == {np.dtype("float64")}
        values = [float(x) for x in values]
    want = oracle(logits, targets, positive, valid, 0.5)[:2]
    np.testing.assert_allclose(values, want, rtol=1e-10)


@FORMS
def test_the_largest_numbers_there_are(form):
    logits, targets, positive, valid = drawn()
    logits = np.random.default_rng(2).choice(np.float32([-3e38, -1e8, 0, 0.25, 1e8, 3e38]), 3000)
    found = run(logits, targets, positive, valid, form=form)
    for a, b in zip(found, oracle(logits, targets, positive, valid, 0.5), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@FORMS
def test_nothing_at_all_and_masks_of_numpy(form):
    none = jnp.zeros(0)
    assert lib.rank_sort(none, none, none > 0, none > 0, form=form) == (1.0, 1.0)
    _, targets, positive, valid = drawn(count=60, positives=5)
    loss = lambda x: sum(lib.rank_sort(x, targets, positive, valid, form=form))  # noqa: E731
    quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    assert abs(quick(jax.grad(loss))(jnp.zeros(60)).sum()) < 1e-6


@FORMS
def test_logits_that_are_all_equal(form):
    """A tie of everything: each counts one half."""
    _, targets, positive, valid = drawn()
    arguments = np.full(3000, 7.0, np.float32), targets, positive, valid
    for a, b in zip(run(*arguments, form=form), oracle(*arguments, 0.5), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


@FORMS
def test_the_gradient_sums_to_nothing_and_is_free_of_shifts_and_order(form):
    arguments = drawn()
    found = run(*arguments, form=form)
    assert abs(found[2].sum()) < 1e-6 and abs(found[3].sum()) < 1e-6
    moved = run(arguments[0] + np.float32(8), *arguments[1:], form=form)
    order = np.random.default_rng(1).permutation(3000)
    turned = run(*(x[order] for x in arguments), form=form)
    for a, b, c in zip(found, moved, turned, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
        np.testing.assert_allclose(a[order] if a.ndim else a, c, atol=1e-6)


@FORMS
def test_negatives_far_below_change_nothing(form):
    logits, targets, positive, valid = drawn()
    lowest = logits[positive & valid].min() - 0.5
    far = ~positive & (logits < lowest)
    assert far.sum() > 50
    found = run(logits, targets, positive, valid, form=form)
    assert (found[2][far] == 0).all() and (found[3][far] == 0).all()
    without = run(logits, targets, positive, valid & ~far, form=form)
    for a, b in zip(found, without, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@FORMS
def test_what_takes_no_part_may_hold_anything(form):
    logits, targets, positive, valid = drawn()
    found = run(logits, targets, positive, valid, form=form)
    logits, targets = logits.copy(), targets.copy()
    logits[~valid], targets[~(positive & valid)] = np.nan, np.nan
    for a, b in zip(found, run(logits, targets, positive, valid, form=form), strict=True):
        np.testing.assert_array_equal(a, b)


@FORMS
def test_without_positives_or_negatives(form):
    logits, targets, positive, valid = drawn()
    ranking, sorting, *gradients = run(logits, targets, np.zeros_like(positive), valid, form=form)
    assert ranking == sorting == 1.0 and not np.any(gradients)
    found = run(logits, targets, positive, valid & positive, form=form)
    expected = oracle(logits, targets, positive, valid & positive, 0.5)
    assert found[0] == 0 and not found[2].any()
    np.testing.assert_allclose(found[3], expected[3], atol=1e-7)


@FORMS
def test_a_positive_with_a_target_of_zero_stays_one(form):
    logits, targets, positive, valid = drawn()
    targets = np.where(np.arange(3000) % 2, targets, 0.0)
    found, expected = (
        run(logits, targets, positive, valid, form=form),
        oracle(logits, targets, positive, valid, 0.5),
    )
    np.testing.assert_allclose(found[:2], expected[:2], atol=1e-6)


def test_any_number_of_positives():
    """More than a tile has rows and columns, and nothing else."""
    arguments = drawn(positives=2900)
    for a, b in zip(run(*arguments), oracle(*arguments, 0.5), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


MILLION = {
    "as at the start": lambda rng, n: rng.normal(size=n),
    "nearly equal": lambda rng, n: 3 + 1e-6 * rng.normal(size=n),
    "in clusters": lambda rng, n: rng.integers(-4, 5, n) + 1e-4 * rng.normal(size=n),
    "heavy tails": lambda rng, n: np.clip(rng.standard_cauchy(n), -1e6, 1e6),
    "far from zero": lambda rng, n: 1e4 + 30 * rng.normal(size=n),
    "all scales": lambda rng, n: rng.choice([-1, 1], n) * 10.0 ** rng.uniform(-6, 5, n),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MILLION)
def test_a_million_logits(kind):
    """Both forms, to 1e-6 of the errors and of the gradient times the number of positives."""
    rng, count = np.random.default_rng(0), 1_000_000
    logits = MILLION[kind](rng, count).astype(np.float32)
    positive = np.zeros(count, bool)
    positive[rng.choice(count, 200, replace=False)] = True
    targets = np.where(positive, rng.random(count), 0).astype(np.float32)
    valid = np.ones(count, bool)
    expected = oracle(logits, targets, positive, valid, 0.5)
    for form in lib.FORMS:
        found = run(logits, targets, positive, form=form)
        np.testing.assert_allclose(found[:2], expected[:2], atol=1e-6, err_msg=form)
        moved = 200 * np.stack(found[2:]), 200 * np.stack(expected[2:])
        np.testing.assert_allclose(*moved, atol=1e-6, err_msg=form)


def test_mistakes_are_named():
    one = jnp.ones(1)
    with pytest.raises(ValueError, match="delta=-1: allowed"):
        lib.rank_sort(one, one, one > 0, one > 0, delta=-1)
    with pytest.raises(ValueError, match="form='loop': allowed are sorted, dense"):
        lib.rank_sort(one, one, one > 0, one > 0, form="loop")
