"""Rules that make a verdict of figures: pure functions, in which missing figures support nothing.

An interval is (low, high); nan ends stand for a figure without an interval, as of a single seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

Interval = tuple[float, float]

SIGNIFICANCE = 0.05


class Verdict(StrEnum):
    """What the measurements say of a claim."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDECIDED = "undecided"
    UNMEASURED = "not measured yet"


@dataclass(frozen=True)
class Finding:
    """A verdict with the sentences that hold its figures, their n and their intervals."""

    verdict: Verdict
    figures: tuple[str, ...]


def exact(holds: bool) -> Verdict:
    """The verdict on what a computation decides without an interval."""
    return Verdict.SUPPORTED if holds else Verdict.REFUTED


def above(interval: Interval | None, bound: float) -> Verdict:
    """Whether a figure is above a bound: its whole interval is, or its whole interval is below."""
    if interval is None:
        return Verdict.UNMEASURED
    low, high = interval
    if math.isnan(low) or math.isnan(high):
        return Verdict.UNDECIDED
    if low > bound:
        return Verdict.SUPPORTED
    return Verdict.REFUTED if high < bound else Verdict.UNDECIDED


def equals(interval: Interval | None, claimed: float, within: float) -> Verdict:
    """Whether a figure is the claimed one: its interval leaves it out, or is all near it.

    within: how far from the claimed figure the interval may reach in support; a wider one that
    holds the figure decides nothing.
    """
    if interval is None:
        return Verdict.UNMEASURED
    low, high = interval
    if math.isnan(low) or math.isnan(high):
        return Verdict.UNDECIDED
    if not low <= claimed <= high:
        return Verdict.REFUTED
    is_near = claimed - low <= within and high - claimed <= within
    return Verdict.SUPPORTED if is_near else Verdict.UNDECIDED


def significant(difference: float, p_value: float) -> Verdict:
    """Whether a difference is above 0: by its sign, where the adjusted p-value is below 0.05."""
    if math.isnan(p_value) or p_value >= SIGNIFICANCE:
        return Verdict.UNDECIDED
    return exact(difference > 0)


def unanimous(parts: Sequence[Verdict]) -> Verdict:
    """The verdict that every seed gives; undecided where they differ, and for fewer than three."""
    if not parts:
        return Verdict.UNMEASURED
    return parts[0] if len(parts) >= 3 and len(set(parts)) == 1 else Verdict.UNDECIDED


def better(verdict: str | None, claimed: str, other: str) -> Verdict:
    """Whether a comparison decided beforehand names the claimed norm as the better one.

    verdict: the norm named, or another word where none is; None without the comparison. Alike norms
    refute a claim that one is ahead.
    """
    if verdict is None:
        return Verdict.UNMEASURED
    if verdict == claimed:
        return Verdict.SUPPORTED
    return Verdict.REFUTED if verdict in (other, "alike") else Verdict.UNDECIDED


def not_worse(verdict: str | None, claimed: str, other: str) -> Verdict:
    """Whether a comparison decided beforehand leaves the claimed norm at least as good.

    Alike norms support it.
    """
    if verdict == "alike":
        return Verdict.SUPPORTED
    return better(verdict, claimed, other)


def every(parts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim of several parts, all of which it needs.

    One refuted part refutes it, whatever is missing. Nothing at all is not measured.
    """
    for verdict in (Verdict.REFUTED, Verdict.UNMEASURED, Verdict.UNDECIDED):
        if verdict in parts:
            return verdict
    return Verdict.SUPPORTED if parts else Verdict.UNMEASURED


def some(parts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim of which one part is enough.

    It is refuted only where every part is.
    """
    for verdict in (Verdict.SUPPORTED, Verdict.UNMEASURED, Verdict.UNDECIDED):
        if verdict in parts:
            return verdict
    return Verdict.REFUTED if parts else Verdict.UNMEASURED
