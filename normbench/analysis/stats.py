"""Statistics for few seeds: Student-t intervals, paired differences, Holm's correction.

Pure functions of numbers. With three seeds, a bootstrap interval is about three times too narrow,
and a permutation test of three against three cannot go below p = 0.1: hence t.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from numpy.typing import NDArray

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
    over_images: whether the test images count as drawn too; else all is about these images.
    """

    estimate: Estimate
    p_value: float
    over_images: bool = False


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
    return Estimate(mean, _t_quantile(n - 1) * _standard_error(values, mean), n)


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
    error = _standard_error(differences, estimate.mean)

    def margin(tail: float) -> float:
        return _t_quantile(estimate.n - 1, tail) * error

    # Equal differences, as of two collapsed networks, are no spread to judge by.
    has_spread = error > 1e-12 or estimate.mean == 0
    return Difference(estimate, _p_value(estimate.mean, margin) if has_spread else math.nan)


def crossed_difference(first: NDArray[Any], second: NDArray[Any]) -> Difference:
    """First minus second over seeds and test images, both taken as drawn at random.

    first, second: what each run scores on each image, (seeds, images), a row for each common
    seed; two images or more. The variance of the mean has two parts, of crossed random effects
    (Owen, Ann. Appl. Stat. 1, 2007, 386-411, section 3): v_s = s_seeds^2 / n over the seeds' means,
    and v_i = (s_images^2 - s_rest^2 / n) / m over the images' means, without what neither seed nor
    image explains, since v_s has that already.

    The half width is sqrt(t^2 v_s + z^2 v_i), with Student's quantile t for n - 1 and the normal
    quantile z (Zou, Taylor and Donner, Stat. Methods Med. Res. 18, 2009, 347-360: recovered
    variances). One quantile for the sum, by Satterthwaite's or Cochran's rule, errs in the far
    tails, which Holm's rule reads, with 2 or 3 seeds.
    """
    scores = first.astype(float) - second.astype(float)
    n, m = scores.shape
    by_seed, by_image = scores.mean(axis=1), scores.mean(axis=0)
    mean = float(by_seed.mean())
    if n == 1:
        return Difference(Estimate(mean, math.nan, 1), math.nan, over_images=True)
    rest = scores - by_seed[:, None] - by_image[None, :] + mean
    of_rest = float((rest**2).sum()) / ((n - 1) * (m - 1))
    of_seeds = float(by_seed.var(ddof=1)) / n
    of_images = max(0.0, (float(by_image.var(ddof=1)) - of_rest / n) / m)

    def margin(tail: float) -> float:
        return math.hypot(
            _t_quantile(n - 1, tail) * math.sqrt(of_seeds),
            _t_quantile(math.inf, tail) * math.sqrt(of_images),
        )

    half_width = margin((1 - CONFIDENCE) / 2)
    # Seeds that agree to the last image are no spread to judge by.
    p_value = _p_value(mean, margin) if of_seeds > 1e-20 or mean == 0 else math.nan
    return Difference(Estimate(mean, half_width, n), p_value, over_images=True)


def smallest_decided(spread: float, n: int, num_tests: int, power: float = 0.8) -> float:
    """The smallest true difference that a paired t test over n seeds finds with this power.

    spread: the standard deviation of a pair's difference. Every test is at 0.05 / num_tests, as
    Holm's rule tests the smallest p-value: later tests need less. nan for a single seed.
    """
    if n < 2:
        return math.nan
    from scipy.special import nctdtr

    critical = _t_quantile(n - 1, (1 - CONFIDENCE) / 2 / num_tests)
    low, high = 0.0, 1.0
    while 1 - nctdtr(n - 1, high, critical) < power:
        high *= 2
    # By bisection: the power grows with the noncentrality.
    for _ in range(60):
        middle = (low + high) / 2
        is_enough = 1 - nctdtr(n - 1, middle, critical) >= power
        low, high = (low, middle) if is_enough else (middle, high)
    return high * spread / math.sqrt(n)


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
    """How far the 95 % interval of a share of images reaches from it, on its longer side.

    Wilson's interval (JASA 22, 1927, 209-212), which is not empty at a share of 0 or 1 either.
    Infinitely many seeds still leave so much open about the share of all images of the kind.
    """
    low, high = interval_of_share(share, num_test)
    return max(high - share, share - low)


def interval_of_share(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n (JASA 22, 1927, 209-212)."""
    z = 1.959963984540054  # the normal quantile of 0.975
    weight = z * z / n
    middle = (share + weight / 2) / (1 + weight)
    inner = share * (1 - share) / n + weight / (4 * n)
    reach = z * math.sqrt(inner) / (1 + weight)
    return middle - reach, middle + reach


def _t_quantile(freedom: float, tail: float = (1 - CONFIDENCE) / 2) -> float:
    """The value that Student's t exceeds with probability `tail`; a normal one if `freedom` is inf.

    tail: above 0, below 1/2.
    """
    from scipy.special import stdtrit  # scipy.stats takes seconds to import

    return -float(stdtrit(freedom, tail))


def _p_value(mean: float, margin: Callable[[float], float]) -> float:
    """Two-sided: twice the tail whose interval, of half width `margin`, just reaches 0."""
    if mean == 0:
        return 1.0
    low, high = math.log(1e-300), math.log(0.5)  # of the tail, by bisection
    for _ in range(50):
        middle = (low + high) / 2
        # The further out, the smaller the tail.
        low, high = (middle, high) if margin(math.exp(middle)) > abs(mean) else (low, middle)
    return 2 * math.exp(high)


def _standard_error(values: Sequence[float], mean: float) -> float:
    squares = math.fsum((value - mean) ** 2 for value in values)
    return math.sqrt(squares / (len(values) - 1) / len(values))
