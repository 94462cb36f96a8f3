"""Two norms against each other: the difference, its interval, the verdict, and these in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from normbench.analysis.design import Comparison
from normbench.analysis.settings import describe
from normbench.analysis.stats import Difference
from normbench.analysis.study import CHOSEN
from normbench.tasks.metric import Metric

SIGNIFICANCE = 0.05
UNDECIDED = "undecided"
ALIKE = "alike"
NO_VERDICT = "no verdict"


@dataclass(frozen=True)
class Paired:
    """First minus second in the final primary metric, at a choice of settings.

    adjusted: the p-value by Holm's rule over the family; nan without one. family: the family in
    words. is_primary: whether the comparison belongs to the family, and planned: as which of those
    decided beforehand. objections: by norm, what speaks
    against its figures, as an own norm's defects. lost: by norm, seeds that have ended without a
    result. smallest: the smallest difference of interest, or None.
    """

    first: str
    second: str
    settings: dict[str, Any]
    difference: Difference
    metric: Metric
    objections: dict[str, str]
    lost: dict[str, int]
    smallest: float | None = None
    is_primary: bool = True
    planned: Comparison | None = None
    adjusted: float = math.nan
    family: str = ""

    def turned(self) -> Paired:
        """Second minus first: the same finding from the other side."""
        estimate = self.difference.estimate
        # Not -mean, which writes a difference of 0 as -0.
        difference = replace(self.difference, estimate=replace(estimate, mean=0.0 - estimate.mean))
        return replace(self, first=self.second, second=self.first, difference=difference)

    @property
    def verdict(self) -> str:
        """The better norm where the adjusted p-value is below 0.05; else `alike` or `undecided`.

        Norms are alike if the whole interval is within the smallest difference of interest. There
        is no verdict on a norm whose figures are not comparable, in favour of a norm that has lost
        seeds, and outside the family. A single seed decides nothing.
        """
        if not self.is_primary or self.objections:
            return NO_VERDICT
        if math.isnan(self.adjusted):
            return UNDECIDED
        if self.adjusted >= SIGNIFICANCE:
            # A norm that has lost seeds may be worse than its survivors say.
            return ALIKE if self.is_small and not any(self.lost.values()) else UNDECIDED
        return NO_VERDICT if self.lost.get(self.better) else self.better

    @property
    def is_decided(self) -> bool:
        """Whether the verdict names the better norm."""
        return self.verdict in (self.first, self.second)

    @property
    def norms(self) -> frozenset[str]:
        """Both norms, in no order."""
        return frozenset((self.first, self.second))

    @property
    def is_above(self) -> bool:
        """Whether the first norm is better by its whole interval, with or without a verdict."""
        return self.better == self.first and self.nearest_to_zero > 0

    @property
    def is_small(self) -> bool:
        """Whether the whole interval is within the smallest difference of interest."""
        return self.smallest is not None and self.reach <= self.smallest

    @property
    def better(self) -> str:
        """The norm with the better mean, decided or not; the second of equal ones."""
        is_first = self.metric.is_better(self.difference.estimate.mean, 0.0)
        return self.first if is_first else self.second

    @property
    def nearest_to_zero(self) -> float:
        """The size of the interval's end nearer to 0; negative around 0, nan for a single seed."""
        estimate = self.difference.estimate
        return abs(estimate.mean) - estimate.half_width

    @property
    def reach(self) -> float:
        """The end of the interval that is further from 0; nan for a single seed."""
        estimate = self.difference.estimate
        return abs(estimate.mean) + estimate.half_width

    @property
    def outcome(self) -> str:
        """The verdict in words, with the reason if there is none; a null result has its bound."""
        verdict = self.verdict
        if self.objections:
            told = "; ".join(f"{norm} {what}" for norm, what in self.objections.items())
            return f"{NO_VERDICT}, since {told}"
        if not self.is_primary:
            return "not among the comparisons decided beforehand: no verdict"
        if verdict == NO_VERDICT:
            return f"{NO_VERDICT} in favour of {self.better}, which has lost seeds"
        if self.is_decided:
            return f"{verdict} is better"
        if math.isnan(self.adjusted):
            return UNDECIDED
        told = f"{verdict}, within ± {self._size(self.reach)}"
        if self.smallest is None:
            return told
        smallest = self._size(self.smallest)
        if verdict == ALIKE:
            return f"{told}: less than the {smallest} of interest"
        if self.is_small:
            return f"{told}: less than the {smallest} of interest, but seeds were lost"
        return f"{told}: not known to be below the {smallest} of interest"

    @property
    def shown(self) -> str:
        """The difference with the interval: `+0.8 ± 0.3 points`."""
        estimate = self.difference.estimate
        return self.metric.show_difference(estimate.mean, estimate.half_width)

    @property
    def p_in_words(self) -> str:
        """The p-value with the family: `p = 0.12 (Holm over 6 comparisons: all pairs of ...)`."""
        return f"{p_text(self.adjusted)} ({self.family})"

    @property
    def place(self) -> str:
        """The settings in words; a learning rate chosen for each norm is no common setting."""
        told = {name: value for name, value in self.settings.items() if value != CHOSEN}
        return describe(told)

    @property
    def basis(self) -> str:
        """The seeds, the images, and who lost seeds: `5 seeds, paired, on these test images`."""
        number = self.difference.estimate.n
        parts = ["one seed" if number == 1 else f"{number} seeds, paired"]
        if self.difference.over_images:
            parts.append("test images counted as drawn")
        else:
            parts.append("on these test images")
        parts += [f"{count} of {norm} lost" for norm, count in self.lost.items() if count]
        return ", ".join(parts)

    def sentence(self) -> str:
        """The difference, the basis, and the verdict in a sentence."""
        what = f"{self.place}: {self.first} - {self.second} = {self.shown}"
        if self.difference.estimate.n == 1:
            return f"{what} ({self.basis}): no interval, {self.outcome}."
        if not self.is_primary:
            return f"{what} (95 % interval, {self.basis}): {self.outcome}."
        if math.isnan(self.adjusted):
            return f"{what} ({self.basis}), the same with every seed: no p-value, {self.outcome}."
        return f"{what} (95 % interval, {self.basis}), {self.p_in_words}: {self.outcome}."

    def decision(self, called: Callable[[str], str] = str) -> str:
        """The finding as a sentence to be quoted, from the side of the norm with the better mean.

        called: what a norm is called, as `BatchNorm (bn)` where it first stands.
        `At batch size 4, gn reaches 1.2 ± 0.7 points more than bn (5 seeds, paired, ...), p = ...`.
        """
        paired = self if self.better == self.first else self.turned()
        how = "more" if self.metric.is_larger_better else "less"
        size = paired.shown.lstrip("+-")
        names = called(paired.first), called(paired.second)
        what = f"At {self.place}, {names[0]} reaches {size} {how} than {names[1]}"
        p_value = "" if math.isnan(self.adjusted) else f", {self.p_in_words}"
        return f"{what} ({self.basis}){p_value}: {self.outcome}."

    def _size(self, value: float) -> str:
        """A size without sign, with its unit: `0.8 points`."""
        return self.metric.show_difference(value).removeprefix("+")


def p_text(p_value: float) -> str:
    """A p-value in words: `p < 0.001`, `p = 0.031`; `p = 0.0496` where two digits read 0.05."""
    if p_value < 0.001:
        return "p < 0.001"
    digits = 2
    while p_value != SIGNIFICANCE and float(f"{p_value:.{digits}g}") == SIGNIFICANCE:
        digits += 1
    return f"p = {p_value:.{digits}g}"
