"""Two norms against each other, seed by seed: the difference, its interval, and a sentence that says what follows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from normbench.analysis.stats import Difference, holm, paired_difference
from normbench.analysis.tables import settings_columns
from normbench.errors import NormbenchError, unknown

METRIC = "test_accuracy"
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Paired:
    """First minus second in final test accuracy at one choice of settings; `adjusted` is Holm's p-value over all."""

    first: str
    second: str
    settings: dict[str, Any]
    difference: Difference
    adjusted: float

    @property
    def verdict(self) -> str:
        """The better norm where the adjusted p-value is below 0.05, else undecided; one seed decides nothing."""
        if math.isnan(self.adjusted) or self.adjusted >= SIGNIFICANCE:
            return "undecided"
        return self.first if self.difference.estimate.mean > 0 else self.second

    def sentence(self) -> str:
        """The difference, what it rests on, and what follows."""
        where = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.settings.items())
        estimate = self.difference.estimate
        points = f"{where}: {self.first} - {self.second} = {100 * estimate.mean:+.1f}"
        if estimate.n == 1:
            return f"{points} points at one seed: no interval, undecided."
        interval = f"± {100 * estimate.half_width:.1f} points (95 % t interval, {estimate.n} seeds, paired)"
        outcome = "undecided" if self.verdict == "undecided" else f"{self.verdict} is better"
        return f"{points} {interval}, p = {self.adjusted:.2g}: {outcome}."


def compare(runs: pd.DataFrame, first: str, second: str) -> list[Paired]:
    """First against second at every batch size, learning rate and other setting at which both have a seed in common.

    P-values are Holm's, over all of these. Raises NormbenchError for a norm that no run has, for several runs of one
    norm, seed and settings, and where there is nothing in common.
    """
    names = sorted(runs["norm"].dropna().unique())
    for norm in (first, second):
        if norm not in names:
            raise unknown("norm", norm, names)
    done = runs[runs["status"] == "done"]
    settings = [name for name in settings_columns(runs) if not name.startswith("norm.")]
    found: list[tuple[dict[str, Any], Difference]] = []
    for key, group in done.groupby(settings, sort=False, dropna=False):
        difference = paired_difference(_by_seed(group, first), _by_seed(group, second))
        if difference is not None:
            found.append((dict(zip(settings, key, strict=True)), difference))
    if not found:
        raise NormbenchError(f"{first} and {second} have no finished runs of the same seed and settings")
    adjusted = holm([difference.p_value for _, difference in found])
    return [Paired(first, second, *pair, p_value) for pair, p_value in zip(found, adjusted, strict=True)]


def _by_seed(group: pd.DataFrame, norm: str) -> dict[int, float]:
    runs = group[group["norm"] == norm]
    if runs["seed"].duplicated().any():
        raise NormbenchError(f"several runs of {norm} have the same seed and settings: choose among them with --where")
    return {int(seed): float(value) for seed, value in zip(runs["seed"], runs[METRIC], strict=True)}
