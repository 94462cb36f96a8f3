"""By simulation: intervals hold what they say, and a study's verdicts err as seldom as they say.

Accuracy-like data: every image has a difficulty, a norm moves some images more than others (which
another test set would do otherwise), a seed moves all, and the rest is chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from normbench.analysis.stats import (
    Difference,
    _p_value,
    _t_quantile,
    crossed_difference,
    half_width_of_test_set,
    holm,
    mean_interval,
    paired_difference,
    smallest_decided,
)

Scores = NDArray[np.bool_]
DRAWS = 2_000
STUDIES = 1_000
IMAGES = 1_000
FAMILY = 16  # comparisons of a study


def both(
    random: np.random.Generator, seeds: int, of_seed: float, of_norm: float
) -> tuple[Scores, Scores]:
    """Two norms on the same test images, equally good over all images of the kind."""
    difficulty = random.normal(0.3, 1, IMAGES)
    found = []
    for _ in range(2):
        effect = random.normal(0, of_norm, IMAGES)
        shift = random.normal(0, of_seed, (seeds, 1))
        noise = random.normal(0, 0.7, (seeds, IMAGES))
        found.append(difficulty + effect + shift + noise > 0)
    return found[0], found[1]


def over_seeds(first: Scores, second: Scores) -> Difference:
    """The old way: the test images are taken as all there are."""
    results = [dict(enumerate(one.mean(axis=1).tolist())) for one in (first, second)]
    found = paired_difference(*results)
    assert found is not None
    return found


def coverage(
    seeds: int, of_seed: float, of_norm: float, way: Callable[[Scores, Scores], Difference]
) -> float:
    """How often the interval holds the true difference over all images, which is 0."""
    random = np.random.default_rng(seeds)
    held = 0
    for _ in range(DRAWS):
        estimate = way(*both(random, seeds, of_seed, of_norm)).estimate
        held += abs(estimate.mean) <= estimate.half_width
    return held / DRAWS


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize(("of_seed", "of_norm"), [(0.02, 0.1), (0.0, 0.3), (0.06, 0.3)])
def test_an_interval_over_seeds_and_images_covers_95_percent(
    seeds: int, of_seed: float, of_norm: float
) -> None:
    # With two seeds it is a little wider than it need be, lest p-values be too small.
    most = 0.98 if seeds == 2 else 0.97
    assert 0.93 <= coverage(seeds, of_seed, of_norm, crossed_difference) <= most


def test_an_interval_over_seeds_alone_forgets_that_the_test_images_are_drawn() -> None:
    old, new = (coverage(10, 0.01, 0.3, way) for way in (over_seeds, crossed_difference))
    assert old < 0.88
    assert 0.93 <= new <= 0.97


@pytest.mark.parametrize("share", [0.1, 0.5, 0.92])
def test_the_interval_of_a_test_set_covers_95_percent(share: float) -> None:
    right = np.random.default_rng(0).binomial(10_000, share, 4_000) / 10_000
    held = [abs(one - share) <= half_width_of_test_set(one, 10_000) for one in right.tolist()]
    assert 0.93 <= np.mean(held) <= 0.97


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_an_interval_of_a_mean_covers_95_percent(seeds: int) -> None:
    draws = np.random.default_rng(1).normal(0.6, 0.008, (DRAWS, seeds))
    held = [abs(one.mean - 0.6) <= one.half_width for one in map(mean_interval, draws.tolist())]
    assert 0.93 <= np.mean(held) <= 0.97


def errors(seeds: int, offset: float, unequal: bool, over_images: bool) -> float:
    """How often a study of FAMILY comparisons of equal norms calls any of them better.

    offset: standard deviation of the norm's own luck with these test images, in shares.
    """
    random = np.random.default_rng(2)
    wrong = 0
    for _ in range(STUDIES):
        p_values = []
        for place in range(FAMILY):
            spread = 0.008 * (4 if unequal and place % 4 == 0 else 1)
            differences = random.normal(0, spread, seeds) + random.normal(0, offset)
            p_values.append(p_value(differences, offset if over_images else 0.0))
        wrong += min(holm(p_values)) < 0.05
    return wrong / STUDIES


def p_value(differences: NDArray[np.float64], of_images: float) -> float:
    """As `crossed_difference` does, with a known variance over images in place of images."""
    n = len(differences)
    of_seeds = float(differences.std(ddof=1)) / math.sqrt(n)

    def margin(tail: float) -> float:
        over_seeds = _t_quantile(n - 1, tail) * of_seeds
        return math.hypot(over_seeds, _t_quantile(math.inf, tail) * of_images)

    return _p_value(float(differences.mean()), margin)


@pytest.mark.slow
@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize(("seeds", "offset"), [(2, 0.001), (3, 0.001), (3, 0.003), (5, 0.003)])
def test_a_study_of_equal_norms_errs_in_at_most_6_percent(
    seeds: int, offset: float, unequal: bool
) -> None:
    assert errors(seeds, offset, unequal, over_images=True) <= 0.06


@pytest.mark.slow
def test_a_study_without_luck_over_images_errs_in_at_most_6_percent() -> None:
    assert errors(5, 0.0, unequal=True, over_images=False) <= 0.06


@pytest.mark.slow
def test_the_old_way_errs_far_oftener_where_a_norm_has_luck_with_the_test_images() -> None:
    assert errors(5, 0.003, unequal=False, over_images=False) > 0.06
    assert errors(10, 0.003, unequal=False, over_images=False) > 0.10


@pytest.mark.parametrize(("seeds", "num_tests"), [(3, 1), (5, 16), (8, 54)])
def test_the_smallest_decided_difference_is_found_with_its_power(
    seeds: int, num_tests: int
) -> None:
    random = np.random.default_rng(3)
    truth = smallest_decided(0.01, seeds, num_tests)
    draws = random.normal(truth, 0.01, (DRAWS, seeds))
    zeros = dict.fromkeys(range(seeds), 0.0)
    found = 0
    for draw in draws.tolist():
        difference = paired_difference(dict(enumerate(draw)), zeros)
        assert difference is not None
        found += difference.p_value * num_tests < 0.05
    assert found / DRAWS == pytest.approx(0.8, abs=0.03)
