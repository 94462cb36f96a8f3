"""Rules of verdicts: what is missing supports nothing, and more of it changes nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench.audit.verdicts import (
    Verdict,
    above,
    better,
    equals,
    every,
    significant,
    some,
    unanimous,
)

SUPPORTED, REFUTED = Verdict.SUPPORTED, Verdict.REFUTED
UNDECIDED, UNMEASURED = Verdict.UNDECIDED, Verdict.UNMEASURED
verdicts = st.lists(st.sampled_from(list(Verdict)))
numbers = st.floats(-10, 10)


def test_missing_figures_are_not_measured_and_a_figure_without_interval_decides_nothing() -> None:
    assert above(None, 0.0) == equals(None, 0.0, 1.0) == better(None, "gn", "bn") == UNMEASURED
    assert above((math.nan, math.nan), 0.0) == equals((math.nan, math.nan), 0.0, 1.0) == UNDECIDED
    assert every([]) == some([]) == UNMEASURED


@given(numbers, numbers, numbers)
def test_a_bound_is_passed_by_a_whole_interval_only(first: float, second: float, x: float) -> None:
    low, high = sorted((first, second))
    found = above((low, high), x)
    if found == SUPPORTED:
        assert low > x
    elif found == REFUTED:
        assert high < x
    else:
        assert low <= x <= high
    within = equals((low, high), x, 1.0)
    assert (within == REFUTED) == (not low <= x <= high)
    assert (within == SUPPORTED) == (x - low <= 1 and high - x <= 1 and low <= x <= high)


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [("gn", SUPPORTED), ("bn", REFUTED), ("alike", REFUTED), ("undecided", UNDECIDED)],
)
def test_a_comparison_supports_the_norm_that_it_names(verdict: str, expected: Verdict) -> None:
    assert better(verdict, "gn", "bn") == expected
    assert better("no verdict", "gn", "bn") == UNDECIDED


@given(verdicts)
def test_seeds_decide_only_together_and_three_at_least(parts: list[Verdict]) -> None:
    found = unanimous(parts)
    if len(parts) >= 3 and len(set(parts)) == 1:
        assert found == parts[0]
    else:
        assert found == (UNDECIDED if parts else UNMEASURED)


@given(numbers, st.floats(0, 1) | st.just(math.nan))
def test_a_difference_counts_by_its_sign_where_its_p_value_is_small(x: float, p: float) -> None:
    decided = SUPPORTED if x > 0 else REFUTED
    assert significant(x, p) == (decided if p < 0.05 else UNDECIDED)


@given(verdicts)
def test_a_claim_of_parts_needs_all_of_them(parts: list[Verdict]) -> None:
    found = every(parts)
    if found == SUPPORTED:
        assert parts
        assert set(parts) == {SUPPORTED}
    assert (found == REFUTED) == (REFUTED in parts)
    # A part that is missing never makes a verdict better.
    assert every([*parts, UNMEASURED]) != SUPPORTED


@given(verdicts)
def test_one_of_several_parts_may_be_enough(parts: list[Verdict]) -> None:
    assert (some(parts) == SUPPORTED) == (SUPPORTED in parts)
    assert (some(parts) == REFUTED) == bool(parts and set(parts) == {REFUTED})
