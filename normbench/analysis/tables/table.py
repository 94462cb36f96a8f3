"""A table: data, readable cells, and a caption with the basis of the figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import pandas as pd

from normbench.analysis.stats import Ratio, half_width_of_test_set, mean_interval
from normbench.analysis.study import LOST
from normbench.tasks.metric import Metric

NOT_MEASURED = "not measured"
RATIO = ["relative_time", "relative_time_low", "relative_time_high"]
OF_FINISHED = ("median", "worst")


@dataclass(frozen=True)
class Table:
    """A table as unrounded data, and as readable text.

    remarks: how to read this table. notes: runs without a figure, and why; a line each.
    numbers: unrounded, by the columns and rows of `shown`, for cells with a number; the
        keys for sorting on the page.
    basis: what the table rests on, in sentences that other tables of the study share.
    """

    title: str
    data: pd.DataFrame
    shown: pd.DataFrame
    remarks: str
    notes: tuple[str, ...] = ()
    numbers: pd.DataFrame = field(default_factory=pd.DataFrame)
    basis: tuple[str, ...] = ()

    @property
    def caption(self) -> str:
        """The basis and the remarks."""
        return " ".join(filter(None, [*self.basis, self.remarks]))


def in_words(column: object) -> str:
    """The heading of a column: `batch size`, `validation accuracy`."""
    return str(column).replace("val_", "validation ").replace("_", " ")


def result(
    runs: pd.DataFrame,
    column: str,
    values: Sequence[float],
    metric: Metric,
    *,
    on_test_set: bool = True,
    with_worst: bool = False,
) -> dict[str, Any]:
    """The mean over seeds in `column`, with n, half_width, and status: the runs without a result.

    Where runs have diverged or failed, median and worst of the values too, which a mean of
    survivors hides; nan elsewhere, but not `with_worst`. on_test_set: a metric from 0 to 1 then has
    test_set_half_width, the interval due to the finite test set, whatever the number of seeds.
    """
    estimate = mean_interval(values)
    found: dict[str, Any] = {"n": estimate.n, column: estimate.mean}
    found["half_width"] = estimate.half_width
    if on_test_set and (metric.low, metric.high) == (0, 1):
        num_test = runs["num_test"].max() if values else 1
        found["test_set_half_width"] = half_width_of_test_set(estimate.mean, num_test)
    found |= dict.fromkeys(OF_FINISHED, math.nan)
    if values and (with_worst or runs["status"].isin(LOST).any()):
        worst = min if metric.is_larger_better else max
        found |= {"median": median(values), "worst": worst(values)}
    ended = runs.loc[runs["status"] != "done", "status"].value_counts()
    found["status"] = ", ".join(f"{count} {state}" for state, count in ended.items())
    return found


def as_data(rows: Sequence[dict[Any, Any]], optional: Sequence[str] = OF_FINISHED) -> pd.DataFrame:
    """The rows as a table, without the `optional` columns that are nan in every row."""
    table = pd.DataFrame(rows)
    unused = [name for name in optional if name in table and table[name].isna().all()]
    return table.drop(columns=unused)


def survivors_note(data: pd.DataFrame) -> list[str]:
    """The sentence of a caption on medians and worst values; none without a lost run."""
    if "median" not in data:
        return []
    return ["Where runs diverged or failed, mean, median and worst are of those that finished."]


def show_result(
    metric: Metric,
    cell: Mapping[Any, Any],
    column: str,
    *,
    with_n: bool = False,
    lacking: str = NOT_MEASURED,
) -> str:
    """A `result`: `91.3 ± 0.2 % (n = 3, 1 failed)`, or the runs without a result, or `lacking`.

    Where runs were lost: `(n = 3, 1 failed, median 91.2 %, worst 91.1 %)`.
    """
    if cell["n"] == 0:
        return str(cell["status"]) or lacking
    remarks = [f"n = {cell['n']}"] if with_n else []
    if cell["status"]:
        remarks.append(cell["status"])
    for name in OF_FINISHED:
        value = cell.get(name, math.nan)
        if not math.isnan(value):
            remarks.append(f"{name} {metric.show(value)}")
    text = metric.show(cell[column], cell["half_width"])
    return f"{text} ({', '.join(remarks)})" if remarks else text


def show_all(metric: Metric, values: Iterable[float], absent: str = NOT_MEASURED) -> list[str]:
    """The values with their unit; `absent` for nan."""
    return [absent if math.isnan(value) else metric.show(value) for value in values]


def show_means(metric: Metric, data: pd.DataFrame, column: str) -> list[str]:
    """The means of rows of `result` with their intervals; `none finished` for no value."""
    found = zip(data[column], data["half_width"], data["n"], strict=True)
    return [
        metric.show(mean, half_width) if n else "none finished" for mean, half_width, n in found
    ]


def best_mark(is_best: bool, is_edge: bool) -> str:
    """The mark of the best learning rate, and whether it lies at the edge of the rates tried."""
    if not is_best:
        return ""
    return " (best, at the edge)" if is_edge else " (best)"


def times(ratio: Ratio | None) -> str:
    """How many times as long, with an interval, if known: `1.05x (1.02 to 1.09)`."""
    if ratio is None:
        return NOT_MEASURED
    # Without an interval the ends are nan, which is not below nan.
    interval = f" ({ratio.low:.2f} to {ratio.high:.2f})" if ratio.low < ratio.high else ""
    return f"{ratio.value:.2f}x{interval}"


def ratio_columns(ratio: Ratio | None) -> dict[str, float]:
    """A ratio as the columns RATIO; nan for none."""
    values = [math.nan] * len(RATIO) if ratio is None else [ratio.value, ratio.low, ratio.high]
    return dict(zip(RATIO, values, strict=True))


def show_ratios(data: pd.DataFrame) -> list[str]:
    """The columns RATIO of each row as `times` writes them."""
    shown = []
    for value, low, high in data[RATIO].to_numpy().tolist():
        shown.append(times(None if math.isnan(value) else Ratio(value, low, high, 0, 0)))
    return shown
