"""All pairs of norms of a study, seed by seed, with p-values for one family of comparisons.

The family are the primary comparisons of the study's design, decided beforehand; where there are
none, all pairs of norms at all settings of the runs. Pairs outside the family have an interval and
no verdict.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pandas as pd

from normbench.analysis.design import Comparison
from normbench.analysis.images import scores
from normbench.analysis.paired import Paired
from normbench.analysis.stats import Difference, crossed_difference, holm, paired_difference
from normbench.analysis.study import BASELINE, LOST, Study
from normbench.errors import NormbenchError, unknown
from normbench.text import counted


def compare(study: Study, first: str, second: str) -> list[Paired]:
    """First against second at all settings with a common seed.

    Each norm is at the chosen learning rate. P-values are those of `every_pair`.
    Raises NormbenchError for an unknown norm, where the norms have nothing in common, and as
    `every_pair` does.
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


@lru_cache(maxsize=1)
def every_pair(study: Study) -> list[Paired]:
    """All pairs of norms, at all settings with a common seed, with p-values for the family.

    Each norm is at the chosen learning rate. A primary comparison stands as the design has it.
    Those of the last study are kept, since three parts of a report ask for them.
    Raises NormbenchError for several runs of one norm, seed and settings, and for a primary
    comparison at several settings.
    """
    study = study.chosen
    planned = planned_of(study)
    found = list(_pairs(study, planned))
    if not planned:
        number = sum(not math.isnan(paired.difference.p_value) for paired in found)
        family = f"Holm over {counted(number, 'comparison')}: all pairs of these runs"
        return _judged(found, 0, family)
    _check_apart(found)
    tested = [one for one in found if one.planned and not math.isnan(one.difference.p_value)]
    # A comparison without a p-value yet has its place in the family: as if p were 1.
    missing = len(planned) - len(tested)
    family = f"Holm over {counted(len(planned), 'comparison')} decided beforehand"
    return _judged(found, missing, family)


def planned_of(study: Study) -> list[Comparison]:
    """The primary comparisons of the study's design; none without a design."""
    return study.design.comparisons() if study.design else []


def baseline_of(study: Study) -> str:
    """The norm that the design's comparisons are all made with; bn where there is no such norm."""
    against = {comparison.second for comparison in planned_of(study)}
    return against.pop() if len(against) == 1 else BASELINE


def difference_to_baseline(study: Study, runs: Collection[str]) -> Difference | None:
    """Runs of a norm, alike but for their seed, minus those of the baseline, over common seeds.

    The difference is that of `every_pair`: at equal shared settings, each norm at its chosen
    learning rate. None for the baseline itself, for runs at a rate that was not chosen, without a
    common seed, and where a norm has several such runs of a seed.
    """
    done = study.chosen.done.runs
    baseline = baseline_of(study)
    ours = done[done["run"].isin(runs)]
    if ours.empty or ours["norm"].iloc[0] == baseline:
        return None
    shared = study.shared_settings
    is_alike = (done[shared] == ours[shared].iloc[0]).all(axis="columns")
    theirs = done[is_alike & (done["norm"] == baseline)]
    if ours["seed"].duplicated().any() or theirs["seed"].duplicated().any():
        return None
    first, second = (dict(zip(side["seed"], side["run"], strict=True)) for side in (ours, theirs))
    return _difference(study, first, second)


def _pairs(study: Study, planned: Sequence[Comparison]) -> Iterator[Paired]:
    settings = [name for name in study.shared_settings if name != "model" or study.varying([name])]
    norms = list(itertools.combinations(study.done.runs["norm"].unique(), 2))
    smallest = study.design.smallest_difference if study.design else None
    lost = _lost_by_place(study, settings)
    for key, group in study.done.runs.groupby(settings, sort=False, dropna=False):
        place = dict(zip(settings, key, strict=True))
        by_norm = _by_seed(group)
        for first, second in norms:
            difference = _difference(study, by_norm.get(first, {}), by_norm.get(second, {}))
            if difference is None:
                continue
            names = (first, second)
            paired = Paired(
                first,
                second,
                place,
                difference,
                study.primary,
                {norm: study.broken[norm] for norm in names if norm in study.broken},
                {norm: lost.get((norm, *key), 0) for norm in names},
                None if smallest is None else smallest / study.primary.scale,
                is_primary=not planned,
            )
            # A setting with a single value has no column, and stands in the configuration.
            config = study.configs.get(group["run"].iloc[0], {})
            yield _placed(paired, planned, config | place)


def lost_seeds(study: Study, comparison: Comparison) -> dict[str, int]:
    """By norm of a comparison, the seeds that have ended without a result where it is made."""
    ended = study.chosen.runs
    ended = ended[ended["status"].isin(LOST)]
    norms = {comparison.first, comparison.second}
    found: dict[str, set[int]] = {}
    for row in ended[ended["norm"].isin(norms)].to_dict("records"):
        run = {str(column): value for column, value in row.items()}
        if comparison.is_of(norms, run | study.configs.get(run["run"], {})):
            found.setdefault(run["norm"], set()).add(run["seed"])
    return {norm: len(seeds) for norm, seeds in found.items()}


def _lost_by_place(study: Study, settings: Sequence[str]) -> dict[tuple[Any, ...], int]:
    """The number of seeds that have ended without a result, by norm and settings."""
    ended = study.runs[study.runs["status"].isin(LOST)]
    counts: dict[tuple[Any, ...], int] = {}
    for key, group in ended.groupby(["norm", *settings], sort=False, dropna=False):
        counts[key] = group["seed"].nunique()
    return counts


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


def _placed(paired: Paired, planned: Sequence[Comparison], settings: Mapping[str, Any]) -> Paired:
    """The pair as the primary comparison that it is, in the order of the design, or as none."""
    for comparison in planned:
        if comparison.is_of({paired.first, paired.second}, settings):
            found = paired if paired.first == comparison.first else paired.turned()
            return replace(found, is_primary=True, planned=comparison)
    return paired


def _check_apart(found: Sequence[Paired]) -> None:
    """Raises NormbenchError where a primary comparison is there at several settings."""
    primary = [paired for paired in found if paired.planned]
    for before, paired in itertools.combinations(primary, 2):
        if before.planned is paired.planned:
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
