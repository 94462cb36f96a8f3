"""The rule of the recommendation: pure functions of verdicts.

- A study's verdict that one norm is better counts, if the comparison belongs to the study's
  primary family (decided beforehand; for own runs without a design all pairs). Nothing else does.
- A norm that was refused, lost seeds, or breaks what its figures rest on is excluded.
- A norm is behind where such a verdict names a norm ahead of it, directly or through norms in
  between (ws_gn before bn, bn before gn), unless verdicts lead back, as of studies that disagree.
- The candidates are the norms that are not behind: undominated, as in the Schwartz set of voting
  theory (Schwartz, The Logic of Collective Choice, 1986).
- A single candidate with a verdict in its favour is recommended. Anything else is undecided.
- Between two batch sizes, a norm is recommended where both recommend it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

Interval = tuple[float, float]
Pairs = Collection[tuple[str, str]]  # better norm, worse norm


@dataclass(frozen=True)
class Outcome:
    """What verdicts leave: the candidates, the norms that are behind, and the excluded ones.

    is_won: whether a verdict is in favour of a candidate.
    """

    candidates: tuple[str, ...]
    behind: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    is_won: bool = False

    @property
    def recommended(self) -> str | None:
        """The single candidate with a verdict in its favour; None where it is undecided."""
        return self.candidates[0] if len(self.candidates) == 1 and self.is_won else None


def decide(norms: Sequence[str], ahead: Pairs, excluded: Collection[str] = ()) -> Outcome:
    """The outcome for these norms; the order of `norms` is kept.

    ahead: the verdicts, each a better and a worse norm. One that names an excluded norm as the
    better one does not count.
    """
    counted = [(better, worse) for better, worse in ahead if better not in excluded]
    usable = [norm for norm in norms if norm not in excluded]
    reached = {norm: reachable(norm, counted) for norm in usable}
    candidates: list[str] = []
    behind: list[str] = []
    for norm in usable:
        before = [other for other in usable if norm in reached[other]]
        is_behind = any(other not in reached[norm] for other in before)
        (behind if is_behind else candidates).append(norm)
    is_won = any(reached[norm] for norm in candidates)
    shut_out = tuple(norm for norm in norms if norm in excluded)
    return Outcome(tuple(candidates), tuple(behind), shut_out, is_won)


def reachable(norm: str, ahead: Pairs) -> set[str]:
    """The norms that `norm` is ahead of, directly or through norms in between."""
    found: set[str] = set()
    waiting = [norm]
    while waiting:
        first = waiting.pop()
        for better, worse in ahead:
            if better == first and worse not in found:
                found.add(worse)
                waiting.append(worse)
    return found


def both(first: Outcome, second: Outcome) -> Outcome:
    """The outcome between two batch sizes: the candidates of either, and what both leave behind.

    A norm that one of them excludes is excluded. is_won: whether both recommend the same norm.
    """
    excluded = dict.fromkeys([*first.excluded, *second.excluded])
    candidates = dict.fromkeys([*first.candidates, *second.candidates])
    left = tuple(norm for norm in candidates if norm not in excluded)
    behind = tuple(norm for norm in first.behind if norm in second.behind)
    is_won = first.recommended is not None and first.recommended == second.recommended
    return Outcome(left, behind, tuple(excluded), is_won)


def smallest(intervals: Mapping[str, Interval | None]) -> str | None:
    """The norm whose whole interval is below every other norm's; None where there is none.

    A missing interval, and one with a nan end, is not below or above any other.
    """
    for norm, interval in intervals.items():
        others = [intervals[other] for other in intervals if other != norm]
        if others and all(_is_below(interval, other) for other in others):
            return norm
    return None


def _is_below(first: Interval | None, second: Interval | None) -> bool:
    if first is None or second is None or math.isnan(first[1]) or math.isnan(second[0]):
        return False
    return first[1] < second[0]
