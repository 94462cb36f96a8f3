"""Statistics for few seeds: Student-t intervals, paired differences, Holm's correction.

Pure functions of numbers. With three seeds, a bootstrap interval is about three times too narrow,
and a permutation test of three against three cannot go below p = 0.1: hence t.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` values, and the interval's half width, nan for a single value."""

    mean: float
    half_width: float
    n: int


@dataclass(frozen=True)
class Difference:
    """The mean difference over `n` pairs, an interval, and the p-value of no difference.

    p_value: nan for a single pair, and for equal differences unlike 0, without spread.
    """

    estimate: Estimate
    p_value: float


@dataclass(frozen=True)
class Ratio:
    """A median over `n` pairs, and an interval with nan as ends for fewer than 6 pairs."""

    median: float
    low: float
    high: float
    n: int


def mean_interval(values: Sequence[float]) -> Estimate:
    """The mean with the Student-t interval, nan for no values.

    mean ± t(0.975, n - 1) s / sqrt(n), with s over n - 1.
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, 0)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, math.nan, 1)
    from scipy.special import stdtrit  # scipy.stats takes seconds to import

    quantile = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    return Estimate(mean, quantile * _standard_error(values, mean), n)


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """First minus second over common keys (seeds), with the p-value of the paired t test.

    None without a common key. Runs of equal seed start from the same convolutions and see images
    in the same order, so pairing removes the spread due to both. The test is two-sided.
    """
    differences = [first[key] - second[key] for key in sorted(first.keys() & second.keys())]
    if not differences:
        return None
    estimate = mean_interval(differences)
    if estimate.n == 1:
        return Difference(estimate, math.nan)
    from scipy.special import stdtr

    error = _standard_error(differences, estimate.mean)
    if error <= 1e-12:  # equal differences, as of two collapsed networks
        return Difference(estimate, 1.0 if estimate.mean == 0 else math.nan)
    return Difference(estimate, float(2 * stdtr(estimate.n - 1, -abs(estimate.mean) / error)))


def median_ratio(first: Mapping[Any, float], second: Mapping[Any, float]) -> Ratio | None:
    """The median of first over second at common keys (rounds); None without a common key.

    The interval assumes no distribution: the k-th smallest and k-th largest ratio enclose the true
    median in at least 95 % of cases by the binomial law. The ends are nan for fewer than 6 pairs,
    whose extremes enclose the median less often.
    """
    ratios = sorted(first[key] / second[key] for key in first.keys() & second.keys())
    if not ratios:
        return None
    outside = _outside(len(ratios))
    low, high = (ratios[outside - 1], ratios[-outside]) if outside else (math.nan, math.nan)
    return Ratio(median(ratios), low, high, len(ratios))


def with_interval(numbers: Iterable[int]) -> str:
    """Words for a note on the intervals of medians over so many ratios."""
    enough = [_outside(n) > 0 for n in numbers]
    if all(enough) and enough:
        return "with its 95 % interval"
    if any(enough):
        return "with its 95 % interval where there are 6 rounds"
    return "without an interval, which takes 6 rounds"


def _outside(n: int) -> int:
    """The largest k such that the k-th smallest and k-th largest of n values enclose the median.

    Enclosed with CONFIDENCE; 0 if even the extremes fall short.
    """
    from scipy.special import bdtr

    k = 0
    while 2 * bdtr(k, n, 0.5) <= 1 - CONFIDENCE:
        k += 1
    return k


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number by Holm's rule (Scand. J. Statist. 6, 1979, 65-70).

    The i-th smallest of m is multiplied by m - i + 1, and then raised to the largest before it.
    nan stays nan, and does not count as a test.
    """
    tested = [i for i, p_value in enumerate(p_values) if not math.isnan(p_value)]
    order = sorted(tested, key=lambda i: p_values[i])
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def half_width_of_test_set(share: float, num_test: int) -> float:
    """Half width of the normal 95 % interval of a share p of images: 1.96 sqrt(p (1 - p) / n).

    Infinitely many seeds still leave so much open about the share of all images of the kind.
    """
    return 1.96 * math.sqrt(share * (1 - share) / num_test)


def _standard_error(values: Sequence[float], mean: float) -> float:
    squares = math.fsum((value - mean) ** 2 for value in values)
    return math.sqrt(squares / (len(values) - 1) / len(values))
