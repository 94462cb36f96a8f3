"""Outcomes in words: the norm, what it is ahead of, what is behind."""

from __future__ import annotations

from collections.abc import Sequence

from normbench.recommend.measured import Measured
from normbench.recommend.rule import Outcome, reachable
from normbench.text import as_list

MANY = 6  # norms that a sentence lists


def told_of(measured: Measured) -> str:
    """The outcome in words: `ws_gn or bn, which are alike`, or as `short`."""
    if measured.are_alike:
        return f"{as_list(measured.outcome.candidates, 'or')}, which are alike"
    return short(measured.outcome)


def short(outcome: Outcome) -> str:
    """`ws_gn`, or `undecided between gn and ln`."""
    if outcome.recommended is not None:
        return outcome.recommended
    if len(outcome.candidates) > 1:
        return f"undecided between {as_list(first_of(outcome.candidates))}"
    if outcome.candidates:
        return f"undecided, with {outcome.candidates[0]} as the only candidate"
    return "undecided: every norm is excluded"


def through(measured: Measured) -> str:
    """What the recommended norm is ahead of, and through which: `, ahead of bn, and so of gn`."""
    best = measured.outcome.recommended
    if best is None:
        return behind(measured.outcome)
    direct = [worse for better, worse in measured.ahead if better == best]
    further = reachable(best, measured.ahead) - {*direct, best}
    onward = [norm for norm in measured.norms if norm in further]
    told = f", decided ahead of {as_list(direct)}"
    return f"{told}, and so of {as_list(onward)}" if onward else told


def behind(outcome: Outcome, where: str = "") -> str:
    """The norms that are behind: `; bn is behind at both`."""
    norms = outcome.behind
    if not norms:
        return ""
    return f"; {as_list(first_of(norms))} {'is' if len(norms) == 1 else 'are'} behind{where}"


def first_of(norms: Sequence[str]) -> list[str]:
    """The norms; of many the first, and how many more there are."""
    if len(norms) <= MANY:
        return [*norms]
    return [*norms[:MANY], f"{len(norms) - MANY} more"]
