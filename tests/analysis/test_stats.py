"""Statistics against closed forms, against scipy, and by simulation."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from kit.ratios import over_processes
from numpy.typing import NDArray

from normbench.analysis.stats import (
    Ratio,
    half_width_of_test_set,
    holm,
    interval_of_share,
    mean_interval,
    paired_difference,
    ratio_over_processes,
)

VALUES = st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(
    lambda values: len(set(values)) > 1
)
RATIOS = st.floats(0.01, 100)
ROUNDS = st.tuples(st.sampled_from("abcdefg"), st.integers(0, 2))
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


# Ratios of times

Round = tuple[str, int]  # a process and a number


def by_round(values: Sequence[Sequence[float]]) -> dict[Round, float]:
    """The values of each process, with the keys that name their rounds."""
    found = {}
    for process, of_process in enumerate(values):
        for number, value in enumerate(of_process):
            found[f"process {process}", number] = value
    return found


def over_ones(values: Sequence[Sequence[float]]) -> Ratio:
    """The ratio of the values of each process to 1."""
    first = by_round(values)
    found = ratio_over_processes(first, dict.fromkeys(first, 1.0))
    assert found is not None
    return found


@given(st.dictionaries(ROUNDS, RATIOS), st.dictionaries(ROUNDS, RATIOS))
def test_a_ratio_is_of_the_rounds_that_both_have_and_its_interval_is_that_of_scipy(
    first: dict[Round, float], second: dict[Round, float]
) -> None:
    found = ratio_over_processes(first, second)
    ratios = defaultdict(list)
    for key in {*first} & {*second}:
        ratios[key[0]].append(first[key] / second[key])
    assert (found is None) == (not ratios)
    if found is not None:
        assert found.n == sum(map(len, ratios.values()))
        assert found.processes == len(ratios)
        expected = over_processes([*ratios.values()])
        assert (found.value, found.low, found.high) == pytest.approx(expected, nan_ok=True)


def test_fewer_than_five_processes_have_no_interval_however_many_their_rounds() -> None:
    rounds = [1.0, 1.1, 1.3] * 100
    for processes in (1, 4):
        few = over_ones([rounds] * processes)
        assert few.value == pytest.approx(1.1)
        assert math.isnan(few.low)
        assert math.isnan(few.high)
    medians = [1.0, 1.1, 1.2, 1.3, 1.4]
    five = over_ones([[median] for median in medians])
    assert (five.low, five.high) == pytest.approx(over_processes([[one] for one in medians])[1:])


@given(st.lists(st.lists(RATIOS, min_size=1, max_size=5), min_size=5, max_size=9))
def test_the_inverse_ratio_has_the_inverse_interval(values: list[list[float]]) -> None:
    found, one_by_one = over_ones(values), by_round(values)
    inverse = ratio_over_processes(dict.fromkeys(one_by_one, 1.0), one_by_one)
    assert inverse is not None
    # Of an even number of rounds the median is a mean, whose inverse is another.
    if all(len(of_process) % 2 for of_process in values):
        assert inverse.value == pytest.approx(1 / found.value)
        assert (inverse.low, inverse.high) == pytest.approx((1 / found.high, 1 / found.low))


def over_rounds(ratios: NDArray[np.float64]) -> tuple[float, float]:
    """The former interval of a ratio: order statistics around the median of all rounds alike."""
    n = ratios.size
    k = int(scipy.stats.binom.ppf(0.025, n, 0.5))
    ordered = np.sort(ratios, axis=None)
    return float(ordered[k - 1]), float(ordered[n - k])


def draws(processes: int, rounds: int, spread: float = 0.04) -> NDArray[np.float64]:
    """Ratios of a norm at 1.05 times bn: 2000 benches by processes and rounds.

    A process shifts all its rounds by 4 %, a round is off by 6 %: gn at batch 64 came out at 0.93,
    0.96 and 1.01 in three processes, each with an interval of about ± 0.03.
    """
    generator = np.random.default_rng(processes)
    of_process = generator.normal(0, spread, (2000, processes, 1))
    of_round = generator.normal(0, 0.06, (2000, processes, rounds))
    return 1.05 * np.exp(of_process + of_round)


@pytest.mark.parametrize(("processes", "rounds"), [(5, 5), (5, 1), (10, 5)])
def test_intervals_over_processes_hold_the_truth_in_93_to_97_percent_of_2000_benches(
    processes: int, rounds: int
) -> None:
    found = map(over_ones, draws(processes, rounds).tolist())
    assert 0.93 <= np.mean([one.low <= 1.05 <= one.high for one in found]) <= 0.97


def test_the_former_interval_over_rounds_of_one_process_held_the_truth_in_half_of_the_benches() -> (
    None
):
    shares = []
    for spread in (0.04, 0):
        found = map(over_rounds, draws(1, 25, spread))
        shares.append(np.mean([low <= 1.05 <= high for low, high in found]))
    assert 0.45 <= shares[0] <= 0.57
    assert 0.94 <= shares[1] <= 0.98, "where processes do not differ"


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
    # By hand: 42 of 48 are 0.875, and Wilson's interval is not symmetric about it.
    assert interval_of_share(0.875, 48) == pytest.approx((0.753, 0.941), abs=1e-3)
    for right, number in ((0, 10), (10, 10), (3, 20), (9_200, 10_000)):
        wilson = scipy.stats.binomtest(right, number).proportion_ci(method="wilson")
        share = right / number
        longer = max(share - wilson.low, wilson.high - share)
        assert half_width_of_test_set(share, number) == pytest.approx(longer, rel=1e-9)
