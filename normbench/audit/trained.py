"""Claims that figures of trained networks decide: functions from Evidence to a Finding.

Differences are paired by seed, each with its own 95 % Student-t interval. A figure counts only
where every run of its norm and setting has it: what a study lacks is not measured yet.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

from normbench.analysis.stats import Estimate, mean_interval, paired_difference
from normbench.analysis.study import Study
from normbench.analysis.tables.crosstab import final
from normbench.audit.evidence import POINT, Evidence, by_seed, interval_of, points
from normbench.audit.verdicts import Finding, Verdict, above, every
from normbench.runs.columns import APPEARANCES

CHANCE = 0.1  # the accuracy of a run on ten classes that diverged
SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)
BATCHES = (2, 64)
PARTS = ("bn", "ln", "in_affine")

BySeed = Mapping[int, float]


def bn_init(evidence: Evidence) -> Finding:
    """The spread of accuracy over initial scales is larger without a norm than with bn."""
    study = evidence.study("init")
    if study is None:
        return Finding(Verdict.UNMEASURED, ())
    spreads = {norm: _spread_over_scales(study, norm) for norm in ("none", "bn", "gn")}
    figures = []
    for norm, spread in spreads.items():
        if spread is not None:
            told = points(mean_interval([*spread.values()])).removeprefix("+")
            figures.append(f"init: accuracy spreads by {told} over the scales with {norm}.")
    saved = _difference(spreads["none"], spreads["bn"])
    if saved is not None:
        figures.append(f"init: the spread with none minus that with bn is {points(saved)}.")
    return Finding(_above(saved, 0.0), tuple(figures))


def switchable(evidence: Evidence) -> Finding:
    """bn's share falls with the batch, and no single norm is more than a point ahead."""
    study = evidence.study("switchable")
    if study is None:
        return Finding(Verdict.UNMEASURED, ())
    small, large = (_share_of_bn(study, size) for size in BATCHES)
    figures = []
    for size, share in zip(BATCHES, (small, large), strict=True):
        if share is not None:
            told = _plain(mean_interval([*share.values()]))
            figures.append(f"switchable: the share of bn at batch size {size} is {told}.")
    parts = [_above(_difference(large, small), 0.0)]
    for size in BATCHES:
        own = _by_seed(study, study.test_column, norm="switchable", batch_size=size)
        for norm in PARTS:
            other = _by_seed(study, study.test_column, norm=norm, batch_size=size)
            ahead = _difference(own, other)
            parts.append(_above(ahead, -POINT))
            if ahead is not None:
                what = f"switchable - {norm} at batch size {size}"
                figures.append(f"switchable: {what} is {points(ahead)}.")
    return Finding(every(parts), tuple(figures))


def in_appearance(evidence: Evidence) -> Finding:
    """Under each kind of change accuracy falls less with in_affine than with bn."""
    study = evidence.study("appearance")
    if study is None:
        return Finding(Verdict.UNMEASURED, ())
    parts, figures = [], []
    for kind in APPEARANCES:
        saved = _difference(_fall(study, "bn", kind), _fall(study, "in_affine", kind))
        parts.append(_above(saved, 0.0))
        if saved is not None:
            figures.append(
                f"appearance: under other {kind} bn loses {points(saved)} more than in_affine"
                f"{_shifts(study, kind)}."
            )
    return Finding(every(parts), tuple(figures))


def _spread_over_scales(study: Study, norm: str) -> BySeed | None:
    """The largest minus the smallest accuracy over all scales, by seed; None where one lacks.

    A run that diverged has reached chance.
    """
    if study.test_column not in study.metrics:
        return None
    found = final(study, study.test_column)
    reached: dict[int, dict[float, float]] = defaultdict(dict)
    for run in study.at(norm=norm).runs.to_dict("records"):
        value = CHANCE if run["status"] == "diverged" else found.get(run["run"])
        scale = float(study.configs.get(run["run"], {}).get("model.init_scale", 1.0))
        if value is not None:
            reached[run["seed"]][scale] = value
    if not reached or any({*by_scale} != {*SCALES} for by_scale in reached.values()):
        return None
    spread = {}
    for seed, by_scale in reached.items():
        spread[seed] = max(by_scale.values()) - min(by_scale.values())
    return spread


def _share_of_bn(study: Study, batch_size: int) -> BySeed | None:
    """The mean of bn's shares in the mean and in the variance of switchable, by seed."""
    at = {"norm": "switchable", "batch_size": batch_size}
    mean, var = (_by_seed(study, f"share_{moment}_bn", **at) for moment in ("mean", "var"))
    if mean is None or var is None:
        return None
    return {seed: (mean[seed] + var[seed]) / 2 for seed in mean}


def _fall(study: Study, norm: str, kind: str) -> BySeed | None:
    """The accuracy on test images as they are minus that on changed ones, by seed."""
    plain = _by_seed(study, study.test_column, norm=norm)
    changed = _by_seed(study, f"{study.test_column}_{kind}", norm=norm)
    if plain is None or changed is None:
        return None
    return {seed: plain[seed] - changed[seed] for seed in plain}


def _shifts(study: Study, kind: str) -> str:
    told = []
    for norm in ("bn", "in_affine"):
        shift = _by_seed(study, f"feature_shift_{kind}", norm=norm)
        if shift is not None:
            told.append(f"{_plain(mean_interval([*shift.values()]))} with {norm}")
    return f"; features shift by {', '.join(told)}" if told else ""


def _by_seed(study: Study, column: str, **values: object) -> BySeed | None:
    """The final figure of each seed; None unless every run with these values has one."""
    chosen = study.at(**values)
    if chosen.runs.empty or column not in study.metrics:
        return None
    found = by_seed(chosen, column)
    is_whole = found.keys() == set(chosen.runs["seed"])
    return found if is_whole and not any(map(math.isnan, found.values())) else None


def _difference(first: BySeed | None, second: BySeed | None) -> Estimate | None:
    """First minus second over seeds; None unless both have the same seeds."""
    if first is None or second is None or first.keys() != second.keys():
        return None
    difference = paired_difference(first, second)
    return None if difference is None else difference.estimate


def _above(estimate: Estimate | None, bound: float) -> Verdict:
    return above(None if estimate is None else interval_of(estimate), bound)


def _plain(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} ± {estimate.half_width:.3f} ({estimate.n} seeds)"


TRAINED = {
    "bn-init": bn_init,
    "switchable": switchable,
    "in-appearance": in_appearance,
}
