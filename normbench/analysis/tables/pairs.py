"""Two norms against each other, seed by seed: the difference, an interval, and a verdict.

P-values are of one family: Holm's over all pairs of norms at all settings of the runs of a study.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from normbench.analysis.captions import caption, chosen_rates, counted
from normbench.analysis.settings import describe
from normbench.analysis.stats import Difference, holm, paired_difference
from normbench.analysis.study import Study
from normbench.analysis.tables.table import Table, in_words
from normbench.errors import NormbenchError, unknown
from normbench.tasks.metric import Metric

SIGNIFICANCE = 0.05
UNDECIDED = "undecided"
NO_VERDICT = "no verdict"


@dataclass(frozen=True)
class Paired:
    """First minus second in the final primary metric, at a choice of settings.

    adjusted: Holm's p-value over the family. num_tests: p-values in the family.
    objection: what speaks against the figures of either norm; empty if nothing.
    """

    first: str
    second: str
    settings: dict[str, Any]
    difference: Difference
    adjusted: float
    num_tests: int
    objection: str
    metric: Metric

    def turned(self) -> Paired:
        """Second minus first: the same finding from the other side."""
        estimate = self.difference.estimate
        difference = replace(self.difference, estimate=replace(estimate, mean=-estimate.mean))
        return replace(self, first=self.second, second=self.first, difference=difference)

    @property
    def verdict(self) -> str:
        """The better norm where the adjusted p-value is below 0.05, else undecided.

        A single seed, or seeds with equal differences, have no p-value and decide nothing. There is
        no verdict on a norm whose figures are not comparable.
        """
        if self.objection:
            return NO_VERDICT
        if math.isnan(self.adjusted) or self.adjusted >= SIGNIFICANCE:
            return UNDECIDED
        is_first = self.metric.is_better(self.difference.estimate.mean, 0.0)
        return self.first if is_first else self.second

    @property
    def outcome(self) -> str:
        """The verdict in words, with the reason if there is none."""
        if self.objection:
            return f"{NO_VERDICT}, since {self.objection}"
        return UNDECIDED if self.verdict == UNDECIDED else f"{self.verdict} is better"

    @property
    def shown(self) -> str:
        """The difference with the interval: `+0.8 ± 0.3 points`."""
        estimate = self.difference.estimate
        return self.metric.show_difference(estimate.mean, estimate.half_width)

    @property
    def p_in_words(self) -> str:
        """The p-value with the family: `p = 0.12 (Holm over 6 comparisons: all pairs of ...)`."""
        return f"{p_text(self.adjusted)} ({family(self.num_tests)})"

    def sentence(self) -> str:
        """The difference, the basis, and the verdict in a sentence."""
        number = self.difference.estimate.n
        what = f"{describe(self.settings)}: {self.first} - {self.second} = {self.shown}"
        if number == 1:
            return f"{what} at one seed: no interval, {self.outcome}."
        if math.isnan(self.adjusted):
            return f"{what}, the same at {number} seeds: no spread to judge by, {self.outcome}."
        basis = f"(95 % t interval, {number} seeds, paired)"
        return f"{what} {basis}, {self.p_in_words}: {self.outcome}."


def p_text(p_value: float) -> str:
    """A p-value in words: `p < 0.001`, `p = 0.031`."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def family(num_tests: int) -> str:
    """The family of p-values in words: `Holm over 6 comparisons: all pairs of these runs`."""
    return f"Holm over {counted(num_tests, 'comparison')}: all pairs of these runs"


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
    """All pairs of norms, at all settings with a common seed: the family of p-values.

    Each norm is at the chosen learning rate.
    Raises NormbenchError for several runs of one norm, seed and settings.
    """
    study = study.chosen
    settings = [name for name in study.shared_settings if name != "model" or study.varying([name])]
    pairs = list(itertools.combinations(study.done.runs["norm"].unique(), 2))
    found: list[tuple[str, str, dict[str, Any], Difference]] = []
    for key, group in study.done.runs.groupby(settings, sort=False, dropna=False):
        results = _by_seed(group, study.test_column)
        for first, second in pairs:
            difference = paired_difference(results.get(first, {}), results.get(second, {}))
            if difference is not None:
                found.append((first, second, dict(zip(settings, key, strict=True)), difference))
    adjusted = holm([difference.p_value for *_, difference in found])
    num_tests = sum(not math.isnan(p_value) for p_value in adjusted)
    paired = []
    for one, p_value in zip(found, adjusted, strict=True):
        objection = _objection(study, one[:2])
        paired.append(Paired(*one, p_value, num_tests, objection, study.primary))
    return paired


def pairs_table(study: Study) -> Table:
    """All pairs of norms: the paired difference, an interval, and the verdict.

    Raises NormbenchError where no two norms have a seed in common.
    """
    found = every_pair(study)
    if not found:
        raise NormbenchError("no two norms have a finished run of the same seed and settings")
    data = pd.DataFrame([_row(paired) for paired in found])
    note = "Differences are paired over equal seeds."
    num_tests = found[0].num_tests
    if num_tests:
        note += (
            " Each interval is of its difference alone; p is that of the paired t test, "
            f"{family(num_tests)}. So a difference whose interval leaves out 0 may be undecided."
        )
    basis = f"{caption(study)} {note} {chosen_rates(study)}".rstrip()
    numbers = data.rename(columns={"p_adjusted": "p"})
    return Table("Norm against norm", data, _readable(found, data), basis, numbers=numbers)


def _objection(study: Study, norms: Sequence[str]) -> str:
    """What speaks against the figures of the norms: `MyNorm evaluates with batch mates`."""
    return "; ".join(f"{norm} {study.broken[norm]}" for norm in norms if norm in study.broken)


def _by_seed(group: pd.DataFrame, column: str) -> dict[str, dict[int, float]]:
    """The results by norm and seed. Raises NormbenchError where a norm has a seed twice."""
    twice = group.loc[group.duplicated(["norm", "seed"]), "norm"]
    if len(twice):
        raise NormbenchError(
            f"several runs of {twice.iloc[0]} have the same seed and settings: "
            "choose among them with --where"
        )
    found: dict[str, dict[int, float]] = {}
    for norm, seed, value in zip(group["norm"], group["seed"], group[column], strict=True):
        found.setdefault(norm, {})[int(seed)] = float(value)
    return found


def _row(paired: Paired) -> dict[str, Any]:
    estimate = paired.difference.estimate
    return {
        "first": paired.first,
        "second": paired.second,
        **paired.settings,
        "n": estimate.n,
        "difference": estimate.mean,
        "half_width": estimate.half_width,
        "p_value": paired.difference.p_value,
        "p_adjusted": paired.adjusted,
        "num_tests": paired.num_tests,
        "verdict": paired.verdict,
    }


def _readable(found: Sequence[Paired], data: pd.DataFrame) -> pd.DataFrame:
    shown = pd.DataFrame({"pair": data["first"] + " - " + data["second"]})
    for name in found[0].settings:
        if data[name].nunique() > 1:
            shown[in_words(name)] = data[name]
    shown["difference"] = [paired.shown for paired in found]
    shown["seeds"] = data["n"]
    # Without p: `< 0.001`, `0.031`.
    p_values = data["p_adjusted"].map(p_text).str.removeprefix("p ").str.removeprefix("= ")
    shown["p"] = p_values.where(data["p_adjusted"].notna(), "")
    shown["better"] = data["verdict"]
    return shown.astype(str)
