"""Two norms against each other, seed by seed: the difference, an interval, and a verdict.

P-values and verdicts are for one family of comparisons: the primary ones of the study's design,
decided beforehand; without a design, all pairs of norms at all settings of the runs. All other
differences have an interval and no verdict.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from normbench.analysis.captions import counted
from normbench.analysis.design import Comparison
from normbench.analysis.images import scores
from normbench.analysis.settings import describe
from normbench.analysis.stats import Difference, crossed_difference, holm, paired_difference
from normbench.analysis.study import CHOSEN, LOST, Study
from normbench.errors import NormbenchError, unknown
from normbench.tasks.metric import Metric

SIGNIFICANCE = 0.05
UNDECIDED = "undecided"
ALIKE = "alike"
NO_VERDICT = "no verdict"


@dataclass(frozen=True)
class Paired:
    """First minus second in the final primary metric, at a choice of settings.

    adjusted: Holm's p-value over the family; nan outside of it. family: the family in words.
    is_primary: whether the comparison belongs to the family. objections: by norm, what speaks
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
    adjusted: float = math.nan
    family: str = ""

    def turned(self) -> Paired:
        """Second minus first: the same finding from the other side."""
        estimate = self.difference.estimate
        difference = replace(self.difference, estimate=replace(estimate, mean=-estimate.mean))
        return replace(self, first=self.second, second=self.first, difference=difference)

    @property
    def verdict(self) -> str:
        """The better norm where the adjusted p-value is below 0.05; else alike or undecided.

        Alike are norms whose whole interval is within the smallest difference of interest. There
        is no verdict on a norm whose figures are not comparable, in favour of a norm that has lost
        seeds, and outside the family. A single seed decides nothing.
        """
        if not self.is_primary or self.objections:
            return NO_VERDICT
        if math.isnan(self.adjusted) or self.adjusted >= SIGNIFICANCE:
            is_alike = self.smallest is not None and self.reach <= self.smallest
            # A norm that has lost seeds may be worse than its survivors say.
            return ALIKE if is_alike and not any(self.lost.values()) else UNDECIDED
        return NO_VERDICT if self.lost.get(self.better) else self.better

    @property
    def is_decided(self) -> bool:
        """Whether the verdict names the better norm."""
        return self.verdict in (self.first, self.second)

    @property
    def better(self) -> str:
        """The norm with the better mean, whatever that is worth."""
        is_first = self.metric.is_better(self.difference.estimate.mean, 0.0)
        return self.first if is_first else self.second

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
        if math.isnan(self.reach):
            return UNDECIDED
        bound = f"{self._in_units(self.reach)}"
        if self.smallest is None:
            return f"{verdict}, within {bound}"
        smallest = self._in_units(self.smallest).removeprefix("± ")
        what = "less than" if verdict == ALIKE else "not known to be below"
        return f"{verdict}, within {bound}: {what} the {smallest} of interest"

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
            return f"{what} (95 % t interval, {self.basis}): {self.outcome}."
        if math.isnan(self.adjusted):
            return f"{what} ({self.basis}), the same everywhere: no spread, {self.outcome}."
        return f"{what} (95 % t interval, {self.basis}), {self.p_in_words}: {self.outcome}."

    def decision(self) -> str:
        """The finding as a sentence to be quoted, from the side of the norm with the better mean.

        `At batch size 4, gn reaches 1.2 ± 0.7 points more than bn (5 seeds, paired, ...), p = ...`.
        """
        place = self.place or "the settings of these runs"
        paired = self if self.better == self.first else self.turned()
        how = "more" if self.metric.is_larger_better else "less"
        size = paired.shown.lstrip("+-")
        what = f"At {place}, {paired.first} reaches {size} {how} than {paired.second}"
        p_value = "" if math.isnan(self.adjusted) else f", {self.p_in_words}"
        return f"{what} ({self.basis}){p_value}: {self.outcome}."

    def _in_units(self, value: float) -> str:
        return "± " + self.metric.show_difference(value).removeprefix("+")


def p_text(p_value: float) -> str:
    """A p-value in words: `p < 0.001`, `p = 0.031`."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def compare(study: Study, first: str, second: str) -> list[Paired]:
    """First against second at all settings with a common seed.

    Each norm is at the chosen learning rate. P-values are those of `every_pair`.
    Raises NormbenchError for an unknown norm, for several runs of one norm, seed and settings, and
    where nothing is in common.
    """
    names = sorted(study.runs["norm"].dropna().unique())
    for norm in (first, second):
        if norm not in names:
            raise unknown("norm", norm, names)
    if first == second:
        raise NormbenchError(f"{first} and {second} are the same norm: name two")
    asked = {first, second}
    found = [paired for paired in every_pair(study) if {paired.first, paired.second} == asked]
    if not found:
        raise NormbenchError(
            f"{first} and {second} have no finished runs of the same seed and settings"
        )
    return [paired if paired.first == first else paired.turned() for paired in found]


def every_pair(study: Study) -> list[Paired]:
    """All pairs of norms, at all settings with a common seed, with p-values for the family.

    Each norm is at the chosen learning rate. A primary comparison stands as the design has it.
    Raises NormbenchError for several runs of one norm, seed and settings.
    """
    study = study.chosen
    found = list(_pairs(study))
    planned = study.design.comparisons() if study.design else []
    if not planned:
        number = sum(not math.isnan(paired.difference.p_value) for paired in found)
        family = f"Holm over {counted(number, 'comparison')}: all pairs of these runs"
        return _judged(found, 0, family)
    placed = [_placed(paired, planned) for paired in found]
    _check_apart([paired for paired in placed if paired.is_primary])
    tested = [one for one in placed if one.is_primary and not math.isnan(one.difference.p_value)]
    # A comparison without a p-value yet has its place in the family: as if p were 1.
    missing = len(planned) - len(tested)
    family = f"Holm over {counted(len(planned), 'comparison')} decided beforehand"
    return _judged(placed, missing, family)


def _pairs(study: Study) -> Iterator[Paired]:
    settings = [name for name in study.shared_settings if name != "model" or study.varying([name])]
    norms = list(itertools.combinations(study.done.runs["norm"].unique(), 2))
    smallest = study.design.smallest_difference if study.design else None
    lost = _lost_seeds(study, settings)
    for key, group in study.done.runs.groupby(settings, sort=False, dropna=False):
        place = dict(zip(settings, key, strict=True))
        by_norm = _by_seed(group)
        for first, second in norms:
            difference = _difference(study, by_norm.get(first, {}), by_norm.get(second, {}))
            if difference is None:
                continue
            names = (first, second)
            yield Paired(
                first,
                second,
                place,
                difference,
                study.primary,
                {norm: study.broken[norm] for norm in names if norm in study.broken},
                {norm: lost.get((norm, *key), 0) for norm in names},
                None if smallest is None else smallest / study.primary.scale,
            )


def _lost_seeds(study: Study, settings: Sequence[str]) -> dict[tuple[Any, ...], int]:
    """The number of seeds that have ended without a result, by norm and settings."""
    ended = study.runs[study.runs["status"].isin(LOST)]
    counts: dict[tuple[Any, ...], int] = {}
    for key, group in ended.groupby(["norm", *settings], sort=False, dropna=False):
        counts[key] = group["seed"].nunique()
    return counts


def lost_seeds(study: Study, comparison: Comparison) -> dict[str, int]:
    """By norm of a comparison, the seeds that have ended without a result where it is made."""
    at = {name: value for name, value in comparison.at.items() if name in study.runs}
    found = {}
    for norm in (comparison.first, comparison.second):
        ended = study.at(norm=norm, **at).runs
        number = ended.loc[ended["status"].isin(LOST), "seed"].nunique()
        if number:
            found[norm] = int(number)
    return found


def _difference(study: Study, first: dict[int, str], second: dict[int, str]) -> Difference | None:
    """The difference of runs by seed; over test images too, where all runs have kept theirs."""
    seeds = sorted(first.keys() & second.keys())
    ours, theirs = [first[seed] for seed in seeds], [second[seed] for seed in seeds]
    right = scores(study, ours + theirs)
    if right is not None:
        return crossed_difference(right[: len(seeds)], right[len(seeds) :])
    results = study.runs.set_index("run")[study.test_column]
    return paired_difference(
        {seed: float(results[first[seed]]) for seed in seeds},
        {seed: float(results[second[seed]]) for seed in seeds},
    )


def _placed(paired: Paired, planned: Sequence[Comparison]) -> Paired:
    """The pair as a primary comparison, in the order of the design, or as none."""
    for comparison in planned:
        if comparison.is_of({paired.first, paired.second}, paired.settings):
            return paired if paired.first == comparison.first else paired.turned()
    return replace(paired, is_primary=False)


def _check_apart(primary: Sequence[Paired]) -> None:
    """Raises NormbenchError where a primary comparison is there at several settings."""
    seen: dict[tuple[Any, ...], Paired] = {}
    for paired in primary:
        key = (paired.first, paired.second, paired.settings["batch_size"])
        before = seen.setdefault(key, paired)
        if before is not paired:
            raise NormbenchError(
                f"{paired.first} - {paired.second}, decided beforehand, is there at several "
                f"settings, {before.place} and {paired.place}: choose with --where"
            )


def _judged(found: Sequence[Paired], missing: int, family: str) -> list[Paired]:
    """The pairs with Holm's p-values over the primary ones and `missing` more with p = 1."""
    primary = [paired for paired in found if paired.is_primary]
    p_values = [paired.difference.p_value for paired in primary]
    adjusted = iter(holm([*p_values, *[1.0] * missing]))
    judged = []
    for paired in found:
        p_value = next(adjusted) if paired.is_primary else math.nan
        judged.append(replace(paired, adjusted=p_value, family=family))
    return judged


def _by_seed(group: pd.DataFrame) -> dict[str, dict[int, str]]:
    """The runs by norm and seed. Raises NormbenchError where a norm has a seed twice."""
    twice = group.loc[group.duplicated(["norm", "seed"]), "norm"]
    if len(twice):
        raise NormbenchError(
            f"several runs of {twice.iloc[0]} have the same seed and settings: "
            "choose among them with --where"
        )
    found: dict[str, dict[int, str]] = {}
    for norm, seed, run in zip(group["norm"], group["seed"], group["run"], strict=True):
        found.setdefault(norm, {})[int(seed)] = run
    return found
