"""Claims on how training goes: the rates it bears, how fast it is, how far test accuracy falls off.

Functions from Evidence to a Finding, as in `studied`; here no family of norms decides, but figures
of single runs. What a study lacks is not measured yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from normbench.analysis.family import every_pair
from normbench.analysis.stats import holm, paired_difference
from normbench.analysis.study import Study
from normbench.analysis.tables.crosstab import final
from normbench.audit.evidence import Evidence, ahead, by_seed, points, told
from normbench.audit.verdicts import (
    Finding,
    Verdict,
    every,
    exact,
    significant,
    some,
    unanimous,
)

TRAINED = 0.2  # test accuracy above which a network of ten classes counts as trained
GROUPS = (4, 16, 32, 64)  # that the sources recommend


def bn_higher_lr(evidence: Evidence) -> Finding:
    """The largest rate that trains is larger with bn than with none, in every seed."""
    study = evidence.study("higher_lr")
    if study is None:
        return Finding(Verdict.UNMEASURED, ())
    rates = sorted(study.runs["lr"].unique())
    largest = {norm: _largest_rates(study, norm) for norm in study.runs["norm"].unique()}
    bn, none = largest.get("bn", {}), largest.get("none", {})
    parts = []
    for seed in bn.keys() & none.keys():
        is_open = bn[seed] == none[seed] == rates[-1]
        parts.append(Verdict.UNDECIDED if is_open else exact(bn[seed] > none[seed]))
    figures = []
    for norm, found in largest.items():
        listed = ", ".join(f"{rate:g}" for _, rate in sorted(found.items()))
        figures.append(f"higher_lr: the largest rate that trains {norm}, by seed: {listed}.")
    figures.append(f"Tried: {rates[0]:g} to {rates[-1]:g}, {len(rates)} rates; 0: none trains.")
    return Finding(unanimous(parts), tuple(figures))


def _largest_rates(study: Study, norm: str) -> dict[int, float]:
    """By seed, the largest rate at which a run ended above chance; 0 where none did."""
    tried = study.at(norm=norm)
    reached = final(tried, study.test_column)
    found: dict[int, float] = {}
    for run in tried.runs.to_dict("records"):
        trains = reached.get(run["run"], 0.0) > TRAINED
        rate = run["lr"] if trains else 0.0
        found[run["seed"]] = max(rate, found.get(run["seed"], 0.0))
    return found


def bn_speedup(evidence: Evidence) -> Finding:
    """bn needs fewer epochs than none to the accuracy at which none ends, in every seed."""
    study = evidence.study("speedup")
    if study is None:
        return Finding(Verdict.UNMEASURED, ())
    bn, none = (_accuracies(study, norm) for norm in ("bn", "none"))
    parts, needed = [], []
    for seed in sorted(bn.keys() & none.keys()):
        target = none[seed][-1]
        ours, theirs = (_first_above(target, found[seed]) for found in (bn, none))
        parts.append(exact(ours < theirs))
        needed.append(f"{ours:g} of {theirs:g}")
    figure = (
        "speedup: epochs that bn needs to the test accuracy at which none ends, of those that "
        f"none needs, by seed: {', '.join(needed)}."
    )
    return Finding(unanimous(parts), (figure,) if parts else ())


def _accuracies(study: Study, norm: str) -> dict[int, list[float]]:
    """Test accuracies over the epochs of finished runs, by seed."""
    metrics = study.at(norm=norm).done.metrics.sort_values("epoch")
    found = {}
    for seed, rows in metrics.groupby("seed"):
        found[int(str(seed))] = rows[study.test_column].tolist()
    return found


def _first_above(target: float, accuracies: list[float]) -> float:
    """The first epoch that reaches the target, from 1; infinite where none does."""
    reached = [epoch for epoch, value in enumerate(accuracies, start=1) if value >= target]
    return min(reached, default=math.inf)


def bn_regularizes(evidence: Evidence) -> Finding:
    """The gap from train to test accuracy is smaller with bn than with gn, at batch 8 or 64.

    By Holm's rule over the two, without augmentation; with it, the gaps are only shown.
    """
    study = evidence.study("regularizes")
    if study is None:
        return Finding(Verdict.UNMEASURED, ())
    gaps, p_values, figures = [], [], []
    for augment in ("none", "standard"):
        for size in (8, 64):
            at = study.at(batch_size=size, **{"data.augment": augment})
            difference = paired_difference(_gaps(at, "gn"), _gaps(at, "bn"))
            if difference is None:
                return Finding(Verdict.UNMEASURED, ())
            estimate = difference.estimate
            figures.append(
                f"regularizes: batch size {size}, augmentation {augment}: the gap with gn less "
                f"that with bn is {points(estimate)}."
            )
            if augment == "none":
                p_values.append(difference.p_value)
                gaps.append(estimate.mean)
    parts = [significant(*part) for part in zip(gaps, holm(p_values), strict=True)]
    return Finding(some(parts), tuple(figures))


def _gaps(study: Study, norm: str) -> dict[int, float]:
    """Train less test accuracy at the end, by seed."""
    of_norm = study.at(norm=norm)
    train, test = (by_seed(of_norm, f"{split}_accuracy") for split in ("train", "test"))
    return {seed: train[seed] - test[seed] for seed in train}


def gn_groups(named: Sequence[int], evidence: Evidence) -> Finding:
    """One of the named numbers of groups is ahead of each that only other sources name."""
    study = evidence.study("groups")
    if study is None:
        return Finding(Verdict.UNMEASURED, ())
    # Each number of groups stands as a norm of its own, so that all pairs of them are compared.
    runs = study.runs
    names = [_with_groups(number) for number in runs["norm.num_groups"]]
    apart = replace(study, runs=runs.drop(columns="norm.num_groups").assign(norm=names))
    found = every_pair(apart)
    pairs = {(pair.first, pair.second): pair for pair in found}
    pairs |= {(pair.second, pair.first): pair.turned() for pair in found}
    others = [number for number in GROUPS if number not in named]
    parts, shown = [], []
    for number in named:
        against = [pairs.get((_with_groups(number), _with_groups(other))) for other in others]
        parts.append(every([ahead(pair) for pair in against]))
        shown += against
    return Finding(some(parts), tuple(told("groups", shown)))


def _with_groups(number: float) -> str:
    return f"gn({int(number)})"


LEARNING: dict[str, Callable[[Evidence], Finding]] = {
    "bn-higher-lr": bn_higher_lr,
    "bn-speedup": bn_speedup,
    "bn-regularizes": bn_regularizes,
    "gn-groups-4": partial(gn_groups, (4,)),
    "gn-groups-32-64": partial(gn_groups, (32, 64)),
    "gn-groups-16-32": partial(gn_groups, (16, 32)),
}
