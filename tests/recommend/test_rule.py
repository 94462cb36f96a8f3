"""The rule of the recommendation: what verdicts allow, and that more of them never hurt a norm."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from normbench.recommend.rule import Outcome, both, decide, smallest

NORMS = ["bn", "gn", "ln", "in_affine", "ws_gn"]
names = st.sampled_from(NORMS)
verdict = st.tuples(names, names).filter(lambda pair: pair[0] != pair[1])
verdicts = st.frozensets(verdict, max_size=10)
some_norms = st.frozensets(names, max_size=2)
finite = st.floats(-5, 5)


def level(norm: str, outcome: Outcome) -> int:
    """2 for the recommended norm, 1 for a candidate, else 0."""
    if outcome.recommended == norm:
        return 2
    return 1 if norm in outcome.candidates else 0


def test_one_norm_ahead_of_all_others_through_a_baseline_is_recommended() -> None:
    outcome = decide(NORMS, [("ws_gn", "bn"), ("bn", "gn"), ("bn", "ln"), ("bn", "in_affine")])
    assert outcome.recommended == "ws_gn"
    assert outcome.behind == ("bn", "gn", "ln", "in_affine")


def test_two_norms_ahead_of_the_baseline_stay_undecided() -> None:
    outcome = decide(["bn", "gn", "ln"], [("gn", "bn"), ("ln", "bn")])
    assert outcome.recommended is None
    assert outcome.candidates == ("gn", "ln")


def test_without_a_verdict_the_only_norm_left_is_not_recommended() -> None:
    assert decide(["bn", "gn"], [], excluded=["gn"]).recommended is None
    assert decide(["bn", "gn"], [("bn", "gn")], excluded=["gn"]).recommended == "bn"


def test_studies_that_disagree_leave_both_norms() -> None:
    assert decide(["bn", "gn"], [("bn", "gn"), ("gn", "bn")]).candidates == ("bn", "gn")


@given(verdicts, some_norms)
def test_candidates_are_those_of_the_transitive_closure(
    ahead: frozenset[tuple[str, str]], excluded: frozenset[str]
) -> None:
    usable = [norm for norm in NORMS if norm not in excluded]
    closure = np.zeros((len(usable), len(usable)), dtype=bool)
    for better, worse in ahead:
        if better in usable and worse in usable:
            closure[usable.index(better), usable.index(worse)] = True
    for middle in range(len(usable)):
        closure |= np.outer(closure[:, middle], closure[middle])
    is_behind = (closure & ~closure.T).any(axis=0)
    expected = {norm for norm, behind in zip(usable, is_behind, strict=True) if not behind}
    outcome = decide(NORMS, ahead, excluded)
    assert set(outcome.candidates) == expected
    assert {*outcome.candidates, *outcome.behind, *outcome.excluded} == set(NORMS)


@given(verdicts, verdict, some_norms)
def test_more_evidence_for_a_norm_never_makes_it_less_recommended(
    ahead: frozenset[tuple[str, str]], new: tuple[str, str], excluded: frozenset[str]
) -> None:
    norm, other = new
    turned = ahead - {(other, norm)} | {new}
    before = level(norm, decide(NORMS, ahead, excluded))
    assert level(norm, decide(NORMS, ahead | {new}, excluded)) >= before
    assert level(norm, decide(NORMS, turned, excluded)) >= before


@given(verdicts, verdicts, verdict)
def test_nor_does_it_between_two_batch_sizes(
    low: frozenset[tuple[str, str]], high: frozenset[tuple[str, str]], new: tuple[str, str]
) -> None:
    before = both(decide(NORMS, low), decide(NORMS, high))
    after = both(decide(NORMS, low | {new}), decide(NORMS, high))
    assert level(new[0], after) >= level(new[0], before)


@given(verdicts, verdicts, names, some_norms)
def test_an_excluded_norm_is_never_recommended(
    low: frozenset[tuple[str, str]],
    high: frozenset[tuple[str, str]],
    norm: str,
    others: frozenset[str],
) -> None:
    outcome = decide(NORMS, low, others | {norm})
    assert level(norm, outcome) == 0
    assert level(norm, both(outcome, decide(NORMS, high))) == 0


@given(verdicts, some_norms)
def test_a_recommended_norm_has_a_verdict_and_no_rival(
    ahead: frozenset[tuple[str, str]], excluded: frozenset[str]
) -> None:
    outcome = decide(NORMS, ahead, excluded)
    best = outcome.recommended
    if best is not None:
        assert any(better == best for better, _ in ahead)
        assert {*outcome.behind, *excluded} == {*NORMS} - {best}


@given(verdicts, verdicts)
def test_between_two_sizes_both_have_to_recommend_the_norm(
    low: frozenset[tuple[str, str]], high: frozenset[tuple[str, str]]
) -> None:
    first, second = decide(NORMS, low), decide(NORMS, high)
    found = both(first, second)
    if found.recommended is not None:
        assert first.recommended == second.recommended == found.recommended
    assert set(found.behind) == set(first.behind) & set(second.behind)
    assert both(first, first) == first or first.recommended is None


def test_a_size_without_a_verdict_does_not_agree() -> None:
    won, only_one_left = decide(["bn"], [("bn", "gn")]), decide(["bn"], [])
    assert both(won, won).recommended == "bn"
    assert both(won, only_one_left).recommended is None


@given(st.dictionaries(names, st.tuples(finite, finite).map(sorted).map(tuple), min_size=1))
def test_the_smallest_has_its_whole_interval_below_all_others(
    intervals: dict[str, tuple[float, float]],
) -> None:
    found = smallest(intervals)
    separate = []
    for norm, (_, high) in intervals.items():
        lows = [low for other, (low, _) in intervals.items() if other != norm]
        if lows and high < min(lows):
            separate.append(norm)
    assert [found] == (separate or [None])


def test_a_missing_interval_and_one_without_ends_decide_nothing() -> None:
    assert smallest({"bn": (1.0, 1.0), "gn": None}) is None
    assert smallest({"bn": (1.0, 1.0), "gn": (math.nan, math.nan)}) is None
    assert smallest({"bn": (1.0, 1.0)}) is None
    assert smallest({"bn": (8.0, 8.0), "gn": (7.0, 7.0)}) == "gn"
