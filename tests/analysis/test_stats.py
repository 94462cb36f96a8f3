"""Statistics against closed forms, against scipy, and by simulation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from normbench.analysis.stats import (
    half_width_of_test_set,
    holm,
    mean_interval,
    median_ratio,
    paired_difference,
)

VALUES = st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(
    lambda values: len(set(values)) > 1
)
RATIOS = st.floats(0.01, 100)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=10)


def test_three_values_have_the_interval_of_the_books() -> None:
    found = mean_interval([0.70, 0.72, 0.74])  # t(0.975, 2) = 4.302653, s = 0.02
    assert found.mean == pytest.approx(0.72)
    assert found.half_width == pytest.approx(4.302653 * 0.02 / math.sqrt(3), rel=1e-6)


def test_a_single_value_has_no_interval_and_none_has_no_mean() -> None:
    found = mean_interval([0.7])
    assert (found.mean, found.n) == (0.7, 1)
    assert math.isnan(found.half_width)
    none = mean_interval([])
    assert none.n == 0
    assert math.isnan(none.mean)


@given(VALUES)
def test_an_interval_is_that_of_scipy(values: list[float]) -> None:
    found = mean_interval(values)
    low, high = scipy.stats.t.interval(
        0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values)
    )
    ends = found.mean - found.half_width, found.mean + found.half_width
    assert ends == pytest.approx((low, high), abs=1e-9)


def test_95_percent_intervals_hold_the_truth_in_93_to_97_percent_of_2000_draws() -> None:
    draws = np.random.default_rng(0).normal(0.7, 0.01, size=(2000, 3))
    found = map(mean_interval, draws.tolist())
    held = [abs(one.mean - 0.7) <= one.half_width for one in found]
    assert 0.93 <= np.mean(held) <= 0.97


def test_intervals_of_paired_differences_hold_the_truth_in_93_to_97_percent_of_2000_draws() -> None:
    generator = np.random.default_rng(1)
    held = []
    for _ in range(2000):
        shared = generator.normal(0, 0.1, size=5)  # ten times the noise of a run
        first, second = (
            dict(enumerate(level + shared + generator.normal(0, 0.01, 5))) for level in (0.72, 0.70)
        )
        difference = paired_difference(first, second)
        assert difference is not None
        estimate = difference.estimate
        held.append(abs(estimate.mean - 0.02) <= estimate.half_width)
    assert 0.93 <= np.mean(held) <= 0.97


@given(VALUES)
def test_a_paired_difference_is_the_t_test_of_scipy_and_changes_sign_with_the_order(
    values: list[float],
) -> None:
    first = dict(enumerate(values))
    second = {key: value / 2 + 0.001 * key**2 for key, value in first.items()}
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert there is not None
    assert back is not None
    assert there.estimate.mean == pytest.approx(-back.estimate.mean)
    oracle = scipy.stats.ttest_rel(list(first.values()), list(second.values()))
    assert there.p_value == pytest.approx(float(oracle.pvalue), abs=1e-6)
    assert there.p_value == pytest.approx(back.p_value)


def test_only_seeds_that_both_have_are_paired() -> None:
    difference = paired_difference({0: 0.7, 1: 0.8, 2: 0.1}, {1: 0.7, 0: 0.6, 5: 0.9})
    assert difference is not None
    assert difference.estimate.n == 2
    assert difference.estimate.mean == pytest.approx(0.1)
    assert paired_difference({0: 0.7}, {1: 0.7}) is None
    single = paired_difference({0: 0.7}, {0: 0.6})
    assert single is not None
    assert math.isnan(single.p_value)
    assert math.isnan(single.estimate.half_width)


def over_ones(values: Sequence[float]) -> tuple[float, float, float, int]:
    """The median ratio of these values to 1: median, low, high, n."""
    found = median_ratio(dict(enumerate(values)), dict.fromkeys(range(len(values)), 1.0))
    assert found is not None
    return astuple(found)


@given(st.dictionaries(st.integers(0, 9), RATIOS), st.dictionaries(st.integers(0, 9), RATIOS))
def test_a_ratio_is_the_median_over_what_both_have(
    first: dict[int, float], second: dict[int, float]
) -> None:
    found = median_ratio(first, second)
    both = {*first} & {*second}
    assert (found is None) == (not both)
    if found is not None:
        assert found.n == len(both)
        assert found.median == pytest.approx(np.median([first[key] / second[key] for key in both]))


@given(st.lists(RATIOS, min_size=1, max_size=40))
def test_an_interval_of_a_median_is_of_two_of_its_values_and_around_it(values: list[float]) -> None:
    median, low, high, n = over_ones(values)
    assert n == len(values)
    assert math.isnan(low) == math.isnan(high) == (n < 6)
    if n >= 6:
        assert {low, high} <= {*values}
        assert low <= median <= high
    inverse = median_ratio(dict.fromkeys(range(n), 1.0), dict(enumerate(values)))
    assert inverse is not None
    if n >= 6:
        assert (inverse.low, inverse.high) == pytest.approx((1 / high, 1 / low))


def test_six_rounds_have_the_interval_from_the_least_to_the_most_and_five_have_none() -> None:
    assert over_ones([3.0, 1.0, 2.0, 6.0, 5.0, 4.0]) == (3.5, 1.0, 6.0, 6)
    median, low, high, n = over_ones([3.0, 1.0, 2.0, 5.0, 4.0])
    assert (median, n) == (3.0, 5)
    assert math.isnan(low)
    assert math.isnan(high)


def test_the_interval_of_a_median_is_the_narrowest_that_the_binomial_law_allows() -> None:
    """From the k-th smallest to the k-th largest of n: neither end is beyond the median in 2
    P(B(n, 1/2) < k)."""
    for n in (*range(6, 200), 1023, 1024, 2001):  # of 1024 the coefficients are beyond a float
        _, low, high, _ = over_ones([float(value) for value in range(1, n + 1)])
        k = round(low)
        assert (low, high) == (k, n + 1 - k)
        outside = [2 * scipy.stats.binom.cdf(rank - 1, n, 0.5) for rank in (k, k + 1)]
        assert outside[0] <= 0.05 < outside[1]


@pytest.mark.parametrize("n", [6, 9, 25])
def test_the_interval_of_a_median_holds_the_truth_in_95_percent_of_10000_draws_however_skewed(
    n: int,
) -> None:
    draws = np.random.default_rng(n).lognormal(np.log(1.1), 0.5, size=(10_000, n))
    held = [low <= 1.1 <= high for _, low, high, _ in map(over_ones, draws.tolist())]
    assert 0.95 <= np.mean(held) <= 0.98


def test_holm_gives_the_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(P_VALUES)
def test_holm_never_lowers_a_p_value_keeps_the_order_and_is_at_most_bonferroni(
    p_values: list[float],
) -> None:
    adjusted = holm(p_values)
    assert all(
        p <= a <= min(1.0, p * len(p_values)) + 1e-12
        for p, a in zip(p_values, adjusted, strict=True)
    )
    ranked = [a for _, a in sorted(zip(p_values, adjusted, strict=True))]
    assert ranked == sorted(ranked)


def test_what_was_not_tested_is_not_counted() -> None:
    adjusted = holm([0.02, math.nan, 0.04])
    assert adjusted[0] == pytest.approx(0.04)
    assert math.isnan(adjusted[1])
    assert adjusted[2] == pytest.approx(0.04)


def test_the_interval_of_a_test_set_is_wilson_s() -> None:
    # 92 % on 10,000 images: a standard error of 0.27 points
    assert half_width_of_test_set(0.92, 10_000) == pytest.approx(1.96 * 0.0027129, rel=0.04)
    for right, number in ((0, 10), (10, 10), (3, 20), (9_200, 10_000)):
        wilson = scipy.stats.binomtest(right, number).proportion_ci(method="wilson")
        share = right / number
        longer = max(share - wilson.low, wilson.high - share)
        assert half_width_of_test_set(share, number) == pytest.approx(longer, rel=1e-9)
