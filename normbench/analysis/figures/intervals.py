"""Intervals over seeds as they are drawn: within what is possible, and none over two seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable

from normbench.analysis.stats import Estimate
from normbench.tasks.metric import Metric

LEAST_SEEDS = 3  # for an interval to be drawn
SEEDS = "Small dots: each seed."
CUT = ", cut where no {title} can be"
TWO_SEEDS = (
    "where there are two seeds, no bar: an interval over two reaches 12.7 standard errors to both "
    "sides"
)


def lengths(estimate: Estimate, metric: Metric) -> tuple[float, float] | None:
    """How far the bar reaches below and above the mean; None where no bar is drawn.

    estimate: times the metric's scale. No bar leaves the range of the metric.
    """
    if estimate.n < LEAST_SEEDS or math.isnan(estimate.half_width):
        return None
    low, high = _range(metric)
    below = min(estimate.half_width, estimate.mean - low)
    above = min(estimate.half_width, high - estimate.mean)
    return below, above


def over_seeds(estimates: Iterable[Estimate], metric: Metric, where: str = "") -> str:
    """What bars are, in a sentence of the caption; empty for single seeds alone.

    where: the bars that are meant, where a figure has others: `up and down`.
    """
    known = [estimate for estimate in estimates if estimate.n > 1]
    drawn = [estimate for estimate in known if estimate.n >= LEAST_SEEDS]
    told = []
    if drawn:
        bars_drawn = [(one, lengths(one, metric)) for one in drawn]
        is_cut = any(bar not in (None, (one.half_width,) * 2) for one, bar in bars_drawn)
        cut = CUT.format(title=metric.title) if is_cut else ""
        bars = f"Bars {where}".rstrip()
        told.append(f"{bars}: 95 % Student-t interval over seeds{cut}")
    if len(drawn) < len(known):
        told.append(TWO_SEEDS)
    sentence = "; ".join(told)
    return f"{sentence[0].upper()}{sentence[1:]}." if told else ""


def _range(metric: Metric) -> tuple[float, float]:
    """The least and the largest value of a metric, times its scale."""
    low = -math.inf if metric.low is None else metric.scale * metric.low
    high = math.inf if metric.high is None else metric.scale * metric.high
    return low, high
