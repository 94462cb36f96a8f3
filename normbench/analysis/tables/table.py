"""A table: data, readable cells, and a caption with the basis of the figures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

from normbench.analysis.stats import Ratio
from normbench.tasks.metric import Metric

NOT_MEASURED = "not measured"
RATIO = ["relative_time", "relative_time_low", "relative_time_high"]


@dataclass(frozen=True)
class Table:
    """A table as unrounded data, and as readable text.

    notes: runs without a figure, and why; a line each.
    numbers: unrounded, by the columns and rows of `shown`, for cells with a number; the
        keys for sorting on the page.
    """

    title: str
    data: pd.DataFrame
    shown: pd.DataFrame
    caption: str
    notes: tuple[str, ...] = ()
    numbers: pd.DataFrame = field(default_factory=pd.DataFrame)


def in_words(column: str) -> str:
    """The heading of a column: `batch size`, `validation accuracy`."""
    return column.replace("val_", "validation ").replace("_", " ")


def ended_otherwise(runs: pd.DataFrame) -> str:
    """The number of runs without a result, by state: `1 diverged, 2 failed`."""
    ended = runs.loc[runs["status"] != "done", "status"].value_counts()
    return ", ".join(f"{count} {state}" for state, count in ended.items())


def show_all(metric: Metric, values: Iterable[float]) -> list[str]:
    """The values with their unit; `not measured` for nan."""
    return [NOT_MEASURED if math.isnan(value) else metric.show(value) for value in values]


def times(ratio: Ratio | None) -> str:
    """How many times as long, with an interval, if known: `1.05x (1.02 to 1.09)`."""
    if ratio is None:
        return NOT_MEASURED
    is_known = not math.isnan(ratio.low) and ratio.low < ratio.high
    interval = f" ({ratio.low:.2f} to {ratio.high:.2f})" if is_known else ""
    return f"{ratio.median:.2f}x{interval}"


def ratio_columns(ratio: Ratio | None) -> dict[str, float]:
    """A ratio as the columns RATIO; nan for none."""
    values = [math.nan] * len(RATIO) if ratio is None else [ratio.median, ratio.low, ratio.high]
    return dict(zip(RATIO, values, strict=True))


def show_ratios(data: pd.DataFrame) -> list[str]:
    """The columns RATIO of each row as `times` writes them."""
    shown = []
    for median, low, high in data[RATIO].to_numpy().tolist():
        shown.append(times(None if math.isnan(median) else Ratio(median, low, high, 0)))
    return shown
