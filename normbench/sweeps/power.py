"""What a planned study can decide: the smallest difference that its comparisons find."""

from __future__ import annotations

import math
from collections.abc import Iterator

from normbench.analysis.settings import describe
from normbench.analysis.stats import smallest_decided
from normbench.analysis.study import Study
from normbench.sweeps.plan import Plan

POWER = 0.8
MOST_SEEDS = 200


def describe_power(plan: Plan, finished: Study) -> Iterator[str]:
    """Yields lines on what the plan decides, and on learning rates at the edge of their grid.

    finished: the runs of the plan that are done; they tell the spread over seeds, or else the
    design states it.
    """
    design = plan.design
    number = len(design.comparisons())
    if number:
        yield from _decisions(plan, finished, number)
    for rate in design.rates:
        if rate.is_edge:
            place = describe({"batch_size": rate.batch_size, **rate.at})
            yield (
                f"  learning rate {rate.lr:g} of {rate.norm} at {place} is at "
                f"the edge of what {design.tuned_by} tried: a better one may lie beyond"
            )


def _decisions(plan: Plan, finished: Study, number: int) -> Iterator[str]:
    design, metric = plan.design, plan.metric
    seeds = len({run.config.seed for run in plan.runs})
    spread, settings = spread_over_seeds(finished)
    source = f"pooled from finished runs of {settings} settings"
    if math.isnan(spread) and design.standard_deviation is not None:
        spread, source = design.standard_deviation / metric.scale, "as the study states"
    if math.isnan(spread):
        yield "  power: not known: no two seeds have finished, and no standard_deviation is stated"
        return
    # Pairing by seed makes the spread of a difference smaller; how much, only runs can tell.
    of_pair = math.sqrt(2) * spread
    told = metric.show_difference(spread).lstrip("+")
    basis = f"standard deviation over seeds {told}, {source}"
    if seeds < 2:
        yield f"  power: none: a single seed decides nothing ({basis})"
        return
    least = smallest_decided(of_pair, seeds, number, POWER)
    shown = metric.show_difference(least).lstrip("+")
    yield (
        f"  power {POWER} on these test images: differences from {shown} on, by {number} "
        f"comparisons over {seeds} seeds ({basis})"
    )
    if design.smallest_difference is not None:
        wanted = design.smallest_difference / metric.scale
        shown = metric.show_difference(wanted).lstrip("+")
        if least <= wanted:
            yield f"  that is enough for {shown}, the smallest difference of interest"
        else:
            needed = _needed(of_pair, number, wanted)
            yield f"  {shown}, the smallest difference of interest, takes {needed}"


def spread_over_seeds(study: Study) -> tuple[float, int]:
    """The standard deviation of the primary metric over seeds, pooled over so many settings.

    nan where no norm has two finished seeds at any settings.
    """
    done = study.done.runs
    if done.empty:
        return math.nan, 0
    groups = done.groupby(["norm", *study.settings], dropna=False)[study.test_column]
    freedom = groups.size() - 1
    variances = groups.var(ddof=1)[freedom > 0]
    if variances.empty:
        return math.nan, 0
    pooled = (variances * freedom[freedom > 0]).sum() / freedom.sum()
    return math.sqrt(pooled), len(variances)


def _needed(of_pair: float, number: int, wanted: float) -> str:
    for seeds in range(2, MOST_SEEDS + 1):
        if smallest_decided(of_pair, seeds, number, POWER) <= wanted:
            return f"{seeds} seeds"
    return f"more than {MOST_SEEDS} seeds"
