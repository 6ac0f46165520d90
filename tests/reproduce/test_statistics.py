"""Statistics of a few seeds: NumPy and SciPy agree, and what intervals and power promise is what happens."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import integrate, stats

from jaxseg.reproduce import statistics

OURS, THEIRS = {0: 0.352, 1: 0.347, 2: 0.355, 3: 0.349}, {0: 0.342, 1: 0.344, 2: 0.341, 3: 0.345}


def test_summary_is_that_of_numpy():
    values = [0.342, 0.3481, 0.3377]
    found = statistics.summary(values)
    assert found.count == 3
    assert found.mean == pytest.approx(np.mean(values), rel=1e-14)
    assert found.sd == pytest.approx(np.std(values, ddof=1), rel=1e-12)


def test_one_value_has_no_spread_and_none_has_no_summary():
    assert statistics.summary([0.3]) == statistics.Summary(1, 0.3, None)
    assert statistics.summary([]) is None


def test_a_difference_is_that_of_scipys_paired_test():
    found = statistics.difference(OURS, THEIRS)
    other = stats.ttest_rel(list(OURS.values()), list(THEIRS.values()))
    low, high = other.confidence_interval(0.95)
    assert found.count == 4
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-10)
    assert found.mean == pytest.approx(0.00775, rel=1e-12)
    assert found.sd == pytest.approx(np.std([0.010, 0.003, 0.014, 0.004], ddof=1), rel=1e-10)


def test_an_interval_by_hand():
    # Differences 1, 2, 3: mean 2, sd 1, standard error 1 / sqrt(3), t(0.975, 2) = 4.302653.
    found = statistics.difference({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0})
    assert (found.mean, found.sd) == pytest.approx((2, 1))
    assert (found.low, found.high) == pytest.approx((-0.484138, 4.484138), abs=1e-6)


def test_seeds_are_paired_whatever_their_order_and_single_ones_are_left_out():
    shuffled = {3: 0.349, 9: 0.9, 1: 0.347, 0: 0.352, 2: 0.355}
    assert statistics.difference(shuffled, {7: 0.1, **THEIRS}) == statistics.difference(
        OURS, THEIRS
    )


def test_one_pair_has_no_interval_and_no_pair_no_difference():
    found = statistics.difference({0: 0.35, 1: 0.2}, {0: 0.34, 2: 0.2})
    assert dataclasses.astuple(found) == (1, pytest.approx(0.01), None, None, None, None)
    assert statistics.difference({0: 0.35}, {1: 0.35}) is None


@pytest.mark.parametrize("ours", [(0.0, 0.0), (0.1, 0.2), (0.7, 0.1)])
def test_equal_differences_give_no_interval(ours):
    """They show no spread, which is not the same as certainty; rounding does not hide that they are equal."""
    found = statistics.difference(dict(enumerate(ours)), {k: v - 0.3 for k, v in enumerate(ours)})
    assert (found.count, found.mean, found.sd) == (2, pytest.approx(0.3), 0)
    assert (found.low, found.high, found.detectable) == (None, None, None)


def integrated_power(count: int, shift: float) -> float:
    """The power by the definition of the noncentral t distribution: (Z + shift) / sqrt(chi2 / df)."""
    df, t = count - 1, stats.t.ppf(0.975, count - 1)

    def outside(s: float) -> float:  # s = sqrt(chi2 / df)
        density = 2 * df * s * stats.chi2.pdf(df * s * s, df)
        return density * (stats.norm.sf(t * s - shift) + stats.norm.cdf(-t * s - shift))

    return integrate.quad(outside, 0, 2, limit=200)[0] + integrate.quad(outside, 2, 12)[0]


@pytest.mark.parametrize("count", [2, 3, 5, 10])
@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0, 6.0, 16.0])
def test_power_is_that_of_its_definition(count, shift):
    found = statistics.power(count, sd=0.4, true=0.4 * shift / math.sqrt(count))
    assert found == pytest.approx(integrated_power(count, shift), abs=1e-6)


def test_what_is_detectable_is_detected_four_times_of_five():
    for count in (2, 3, 5, 30):
        smallest = statistics.detectable(count, sd=0.003)
        assert statistics.power(count, 0.003, smallest) == pytest.approx(0.8, abs=1e-9)


def test_known_detectable_differences():
    # G*Power 3.1, matched pairs, two tails, alpha 0.05, power 0.8: dz 0.5 needs 34 pairs, 0.8 needs 15.
    assert statistics.power(34, 1.0, 0.5) == pytest.approx(0.8077775, abs=1e-6)
    assert statistics.power(15, 1.0, 0.8) == pytest.approx(0.8213105, abs=1e-6)
    assert 0.49 < statistics.detectable(34, 1.0) < 0.5


def test_intervals_cover_and_differences_are_detected_as_often_as_promised():
    rng = np.random.default_rng(0)
    count, sd, runs = 3, 0.002, 1500
    smallest = statistics.detectable(count, sd)
    covered = detected = 0
    for values in rng.normal(smallest, sd, (runs, count)):
        found = statistics.difference(dict(enumerate(values)), dict.fromkeys(range(count), 0.0))
        covered += found.low <= smallest <= found.high
        detected += found.low > 0 or found.high < 0
    # Four standard errors of such counts are 0.023 and 0.041.
    assert covered / runs == pytest.approx(0.95, abs=0.023)
    assert detected / runs == pytest.approx(0.8, abs=0.041)


def test_the_spread_of_three_values_is_known_within_a_factor():
    rng = np.random.default_rng(0)
    sds = rng.normal(size=(20_000, 3)).std(axis=1, ddof=1)
    low, high = statistics.sd_factors(3)
    assert (low, high) == pytest.approx((0.52066, 6.28473), abs=1e-4)
    assert np.mean((low * sds <= 1) & (high * sds >= 1)) == pytest.approx(0.95, abs=0.007)
