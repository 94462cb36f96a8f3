"""Statistics for few seeds: Student-t intervals, paired differences, Holm's correction.

Pure functions of numbers. With three seeds, a bootstrap interval is about three times too narrow,
and a permutation test of three against three cannot go below p = 0.1: hence t.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

CONFIDENCE = 0.95
LEAST_PROCESSES = 5  # for the interval of a ratio of times


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
    """A ratio by `n` rounds of so many processes, and an interval.

    low, high: nan for fewer than LEAST_PROCESSES.
    """

    value: float
    low: float
    high: float
    n: int
    processes: int


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


def ratio_over_processes(
    first: Mapping[tuple[Any, ...], float], second: Mapping[tuple[Any, ...], float]
) -> Ratio | None:
    """First over second in the same rounds; None without a common key.

    A key names a round, and begins with its process. A process counts once, by the median of its
    rounds' ratios r_i; the interval is exp(mean ± t(0.975, k - 1) s / sqrt(k)) of the k values
    log r_i. Rounds of one process agree better than processes do, so their spread gives no
    interval.
    """
    ratios = defaultdict(list)
    common = first.keys() & second.keys()
    for key in common:
        ratios[key[0]].append(first[key] / second[key])
    if not ratios:
        return None
    logarithm = mean_interval([math.log(median(found)) for found in ratios.values()])
    half_width = logarithm.half_width if logarithm.n >= LEAST_PROCESSES else math.nan
    ends = (logarithm.mean, logarithm.mean - half_width, logarithm.mean + half_width)
    value, low, high = map(math.exp, ends)
    return Ratio(value, low, high, len(common), logarithm.n)


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
