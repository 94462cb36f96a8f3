"""What a table is: data, what people read of it, and what the figures rest on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from normbench.analysis.stats import Estimate, Ratio

BASELINE = "bn"
NOT_MEASURED = "not measured"
# By the last word of a metric's name that is one of these: factor, decimals, unit.
UNITS = {
    "accuracy": (100, 1, " %"),
    "loss": (1, 3, ""),
    "seconds": (1, 1, " s"),
    "second": (1, 0, "/s"),
    "mib": (1, 0, " MiB"),
}

RATIO = ["relative_time", "relative_time_low", "relative_time_high"]


@dataclass(frozen=True)
class Table:
    """A table as data, unrounded, and as people read it.

    notes: what has no figure, and why; one line each.
    """

    title: str
    data: pd.DataFrame
    shown: pd.DataFrame
    caption: str
    notes: tuple[str, ...] = ()


def ended_otherwise(runs: pd.DataFrame) -> str:
    """How many runs without a result ended how: 1 diverged, 2 failed."""
    ended = runs.loc[runs["status"] != "done", "status"].value_counts()
    return ", ".join(f"{count} {state}" for state, count in ended.items())


def as_text(estimate: Estimate, metric: str) -> str:
    """A figure of this metric with its unit, and its interval where there is one."""
    words = [word for word in metric.split("_") if word in UNITS]
    factor, decimals, unit = UNITS[words[-1]] if words else (1, 3, "")
    mean = f"{factor * estimate.mean:.{decimals}f}"
    spread = (
        "" if math.isnan(estimate.half_width) else f" ± {factor * estimate.half_width:.{decimals}f}"
    )
    return f"{mean}{spread}{unit}"


def figure(value: float, form: str) -> str:
    """A figure in this format; not measured where there is none."""
    return NOT_MEASURED if math.isnan(value) else form.format(value)


def times(ratio: Ratio | None) -> str:
    """How many times as long, with its interval where there is one."""
    if ratio is None:
        return NOT_MEASURED
    spread = (
        ""
        if math.isnan(ratio.low) or ratio.low == ratio.high
        else f" ({ratio.low:.2f} to {ratio.high:.2f})"
    )
    return f"{ratio.median:.2f}x{spread}"


def ratio_columns(ratio: Ratio | None) -> dict[str, float]:
    """A ratio as the columns RATIO; nan where there is none."""
    values = [math.nan] * len(RATIO) if ratio is None else [ratio.median, ratio.low, ratio.high]
    return dict(zip(RATIO, values, strict=True))


def ratios_as_text(data: pd.DataFrame) -> list[str]:
    """The columns RATIO as `times` says them."""
    rows = data[RATIO].values.tolist()
    return [
        times(None if math.isnan(middle) else Ratio(middle, low, high, 0))
        for middle, low, high in rows
    ]
