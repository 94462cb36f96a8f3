"""The comparison: result of each norm, intervals, and cost of an epoch."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import pandas as pd

from normbench.analysis.captions import caption, time_note, unfinished
from normbench.analysis.stats import half_width_of_test_set, mean_interval, median_ratio
from normbench.analysis.study import BASELINE, Study
from normbench.analysis.tables.table import (
    NOT_MEASURED,
    Table,
    ended_otherwise,
    in_words,
    ratio_columns,
    show_all,
    show_ratios,
)
from normbench.analysis.times import Clock
from normbench.tasks.metric import Metric


def comparison_table(study: Study) -> Table:
    """The comparison of all runs, with a row for each norm and choice of settings."""
    data = comparison(study)
    has_floor = "test_set_half_width" in data
    basis = caption(study, test_set=has_floor, times=time_note(study))
    headings = {
        study.val_column: in_words(study.val_column),
        study.test_column: in_words(study.test_column),
        "test_set_half_width": "test set",
        "seconds": "time per epoch",
        "relative_time": f"relative to {BASELINE}",
    }
    shown, numbers = _readable(study, data), data.rename(columns=headings)
    title = "What each norm reached"
    return Table(title, data, shown, basis, unfinished(study), numbers)


def comparison(study: Study) -> pd.DataFrame:
    """A row per norm and choice of `study.settings`, in the order of the runs.

    n: finished runs, a seed each. `study.test_column`: their mean, with half_width of the 95 %
    Student-t interval over seeds, nan for a single seed. test_set_half_width: of the interval due
    to the finite test set, whatever the number of seeds, for metrics with a range. seconds of an
    epoch: median over the rounds of a bench, with the columns RATIO relative to bn at the same
    shared settings, and rounds. status: the runs without a result. Where images were held out:
    `study.val_column`, and chosen, whether the learning rate is the chosen rate.
    """
    baseline = _baseline(study)
    groups = study.runs.groupby(["norm", *study.settings], sort=False, dropna=False)
    table = pd.DataFrame([_row(study, group, baseline) for _, group in groups])
    if study.chooses_rates:
        marked = table.merge(study.best_rates.assign(chosen=True), how="left")
        table["chosen"] = marked["chosen"].eq(True).to_numpy()
    return table


def test_set_half_width(metric: Metric, mean: float, num_test: Any) -> dict[str, float]:
    """The column test_set_half_width; no column for a metric without a range."""
    if metric.low is None or metric.high is None:
        return {}
    if math.isnan(mean):
        return {"test_set_half_width": math.nan}
    width = half_width_of_test_set(mean, int(num_test), metric.low, metric.high)
    return {"test_set_half_width": width}


def _row(study: Study, group: pd.DataFrame, baseline: dict[Any, Clock]) -> dict[str, object]:
    first, done = group.iloc[0], group[group["status"] == "done"]
    values = done[study.test_column].tolist() if len(done) else []
    estimate = mean_interval(values)
    num_test = done["num_test"].iloc[0] if len(done) else None
    clock = study.clock(group["run"])
    ratio = median_ratio(clock, baseline.get(tuple(first[study.shared_settings]), {}))
    row = {"norm": first["norm"], **{name: first[name] for name in study.settings}, "n": len(done)}
    if study.holds_out:
        row[study.val_column] = done[study.val_column].mean()
    return row | {
        study.test_column: estimate.mean,
        "half_width": estimate.half_width,
        **test_set_half_width(study.primary, estimate.mean, num_test),
        "seconds": median(clock.values()) if clock else math.nan,
        **ratio_columns(ratio),
        "rounds": ratio.n if ratio else 0,
        "status": ended_otherwise(group),
    }


def _baseline(study: Study) -> dict[Any, Clock]:
    """The seconds of bn by round, at each choice of the shared settings."""
    runs = study.runs[study.runs["norm"] == BASELINE]
    groups = runs.groupby(study.shared_settings, dropna=False)
    return {key: study.clock(group["run"]) for key, group in groups}


def _readable(study: Study, data: pd.DataFrame) -> pd.DataFrame:
    """The readable comparison, without settings shared by all rows."""
    metric = study.primary
    columns: dict[str, Any] = {"norm": data["norm"]}
    for name in study.varying(study.settings):
        columns[in_words(name)] = data[name]
    if study.holds_out:
        columns[in_words(study.val_column)] = _held_out(study, data)
    reached = zip(data[study.test_column], data["half_width"], data["n"], strict=True)
    columns[in_words(study.test_column)] = [
        metric.show(mean, half_width) if n else "none finished" for mean, half_width, n in reached
    ]
    if "test_set_half_width" in data:
        columns["test set"] = [
            NOT_MEASURED if text == NOT_MEASURED else f"± {text}"
            for text in show_all(metric, data["test_set_half_width"])
        ]
    if data["seconds"].notna().any():
        columns["time per epoch"] = show_all(study.metric("seconds"), data["seconds"])
        columns[f"relative to {BASELINE}"] = show_ratios(data)
    columns["runs"] = data["n"]
    if data["status"].any():
        columns["ended otherwise"] = data["status"]
    return pd.DataFrame(columns).astype(str)


def _held_out(study: Study, data: pd.DataFrame) -> list[str]:
    """The primary metric on held-out images, with a mark at the chosen learning rate."""
    shown = show_all(study.primary, data[study.val_column])
    if "chosen" not in data:
        return shown
    pairs = zip(shown, data["chosen"], strict=True)
    return [f"{text} (best)" if is_chosen else text for text, is_chosen in pairs]
