"""Two norms against each other, seed by seed: the difference, its interval, and a sentence that says what follows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from normbench.analysis.captions import beside_norm, caption, describe
from normbench.analysis.choice import at_chosen_rate, chosen_rates
from normbench.analysis.frames import Frames
from normbench.analysis.stats import Difference, Estimate, holm, paired_difference
from normbench.analysis.tables.table import Table
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
        estimate = self.difference.estimate
        what = f"{describe(self.settings)}: {self.first} - {self.second} = {points(estimate)}"
        if estimate.n == 1:
            return f"{what} at one seed: no interval, undecided."
        if math.isnan(self.adjusted):
            return f"{what}, the same at {estimate.n} seeds: no spread to judge by, undecided."
        outcome = "undecided" if self.verdict == "undecided" else f"{self.verdict} is better"
        return f"{what} (95 % t interval, {estimate.n} seeds, paired), {p_text(self.adjusted)}: {outcome}."


def p_text(p_value: float) -> str:
    """A p-value in words."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def points(estimate: Estimate) -> str:
    """A difference of accuracies in points, with its interval where there is one."""
    spread = "" if math.isnan(estimate.half_width) else f" ± {100 * estimate.half_width:.1f}"
    return f"{100 * estimate.mean:+.1f}{spread} points"


def compare(runs: pd.DataFrame, first: str, second: str) -> list[Paired]:
    """First against second at every batch size, learning rate and other setting at which both have a seed in common.

    Where learning rates were chosen on held-out images, each norm is at its own. P-values are Holm's, over all of
    these. Raises NormbenchError for a norm that no run has, for several runs of one norm, seed and settings, and where
    there is nothing in common.
    """
    names = sorted(runs["norm"].dropna().unique())
    for norm in (first, second):
        if norm not in names:
            raise unknown("norm", norm, names)
    if first == second:
        raise NormbenchError(f"{first} and {second} are the same norm: name two")
    found = _compare_all(runs, [(first, second)])
    if not found:
        raise NormbenchError(
            f"{first} and {second} have no finished runs of the same seed and settings"
        )
    return found


def every_pair(runs: pd.DataFrame) -> list[Paired]:
    """Every norm against every other wherever they have a seed in common; p-values are Holm's over all of these."""
    norms = runs.loc[runs["status"] == "done", "norm"].unique()
    return _compare_all(runs, list(itertools.combinations(norms, 2)))


def pairs_table(frames: Frames) -> Table:
    """Every pair of norms: the paired difference in points of test accuracy, its interval, and what follows."""
    if not (found := every_pair(frames.runs)):
        raise NormbenchError("no two norms have a finished run of the same seed and settings")
    data = pd.DataFrame([_row(paired) for paired in found])
    note = (
        "Differences are paired over equal seeds. Each interval is of its difference alone; p is that of the paired t "
        f"test, by Holm's rule for all {len(found)} of them: one may be undecided whose interval leaves out 0."
    )
    basis = " ".join(filter(None, [caption(frames.runs), note, chosen_rates(frames.runs)]))
    return Table("Norm against norm", data, _shown(found), basis)


def _compare_all(runs: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> list[Paired]:
    runs = at_chosen_rate(runs)
    done = runs[runs["status"] == "done"]
    settings = [name for name in beside_norm(runs) if name != "model" or runs[name].nunique() > 1]
    found: list[tuple[str, str, dict[str, Any], Difference]] = []
    for key, group in done.groupby(settings, sort=False, dropna=False):
        for first, second in pairs:
            difference = paired_difference(_by_seed(group, first), _by_seed(group, second))
            if difference is not None:
                found.append((first, second, dict(zip(settings, key, strict=True)), difference))
    adjusted = holm([difference.p_value for *_, difference in found])
    return [Paired(*one, p_value) for one, p_value in zip(found, adjusted, strict=True)]


def _by_seed(group: pd.DataFrame, norm: str) -> dict[int, float]:
    runs = group[group["norm"] == norm]
    if runs["seed"].duplicated().any():
        raise NormbenchError(
            f"several runs of {norm} have the same seed and settings: choose among them with --where"
        )
    return {int(seed): float(value) for seed, value in zip(runs["seed"], runs[METRIC], strict=True)}


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
        "verdict": paired.verdict,
    }


def _shown(found: Sequence[Paired]) -> pd.DataFrame:
    """As people read it; settings that are the same in all rows are left out."""
    settings = pd.DataFrame([paired.settings for paired in found])
    estimates = [paired.difference.estimate for paired in found]
    return pd.DataFrame(
        {
            "pair": [f"{paired.first} - {paired.second}" for paired in found],
            **{
                str(name).replace("_", " "): settings[name]
                for name in settings
                if settings[name].nunique() > 1
            },
            "difference": [points(estimate) for estimate in estimates],
            "seeds": [estimate.n for estimate in estimates],
            "p": [
                "" if math.isnan(paired.adjusted) else p_text(paired.adjusted)[2:].lstrip("= ")
                for paired in found
            ],
            "better": [paired.verdict for paired in found],
        }
    ).astype(str)
