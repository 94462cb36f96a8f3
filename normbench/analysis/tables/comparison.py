"""The comparison: result of each norm, intervals, and cost of an epoch."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import pandas as pd

from normbench.analysis.captions import caption, time_note, unfinished
from normbench.analysis.stats import ratio_over_processes
from normbench.analysis.study import BASELINE, Study
from normbench.analysis.tables.table import (
    NOT_MEASURED,
    Table,
    best_mark,
    in_words,
    ratio_columns,
    result,
    show_all,
    show_ratios,
)

HEADINGS = {
    "test_set_half_width": "test set",
    "seconds": "time per epoch",
    "relative_time": f"relative to {BASELINE}",
}


def comparison_table(study: Study) -> Table:
    """The comparison of all runs, with a row for each norm and choice of settings."""
    data = comparison(study)
    has_floor = "test_set_half_width" in data
    basis = caption(study, test_set=has_floor, times=time_note(study))
    numbers = data.rename(columns=HEADINGS).rename(columns=in_words)
    shown = _readable(study, data)
    return Table("What each norm reached", data, shown, basis, unfinished(study), numbers)


def comparison(study: Study) -> pd.DataFrame:
    """A row per norm and choice of `study.settings`, in the order of the runs.

    n: finished runs, a seed each. `study.test_column`: their mean, with the columns of
    `table.result`. seconds of an epoch: median over the rounds of a bench, with the columns RATIO
    relative to bn in the same rounds, rounds, and the processes that they are of. Where runs blow
    up: the median and the worst over seeds, which a mean with its interval hides. Where images were
    held out: `study.val_column`, and chosen, whether the learning rate is the chosen rate.
    """
    groups = study.runs.groupby(["norm", *study.settings], sort=False, dropna=False)
    table = pd.DataFrame([_row(study, group) for _, group in groups])
    if study.chooses_rates:
        marked = table.merge(study.best_rates.assign(chosen=True), how="left")
        for name in ("chosen", "is_edge"):
            table[name] = marked[name].eq(True).to_numpy()
    return table


def _row(study: Study, group: pd.DataFrame) -> dict[Any, Any]:
    done = group[group["status"] == "done"]
    row: dict[Any, Any] = group[["norm", *study.settings]].iloc[0].to_dict()
    row["n"] = len(done)
    if study.holds_out:
        row[study.val_column] = done[study.val_column].mean()
    values = list(done.get(study.test_column, []))
    reached = result(group, study.test_column, values, study.primary)
    status = reached.pop("status")
    if study.can_blow_up:
        worst = min if study.primary.is_larger_better else max
        reached["median"] = median(values) if values else math.nan
        reached["worst"] = worst(values) if values else math.nan
    clock = study.clock(group["run"])
    ratio = ratio_over_processes(clock, study.clock_of_bn)
    seconds = median(clock.values()) if clock else math.nan
    times = {"seconds": seconds, **ratio_columns(ratio)}
    times["rounds"] = ratio.n if ratio else 0
    times["processes"] = ratio.processes if ratio else 0
    return row | reached | times | {"status": status}


def _readable(study: Study, data: pd.DataFrame) -> pd.DataFrame:
    metric = study.primary
    shown = data[["norm", *study.varying(study.settings)]].rename(columns=in_words)
    if study.holds_out:
        held_out = show_all(metric, data[study.val_column])
        if "chosen" in data:
            marks = map(best_mark, data["chosen"], data["is_edge"])
            held_out = [text + mark for text, mark in zip(held_out, marks, strict=True)]
        shown[in_words(study.val_column)] = held_out
    reached = zip(data[study.test_column], data["half_width"], data["n"], strict=True)
    shown[in_words(study.test_column)] = [
        metric.show(mean, half_width) if n else "none finished" for mean, half_width, n in reached
    ]
    for name in ("median", "worst"):
        if name in data:
            shown[name] = show_all(metric, data[name])
    if "test_set_half_width" in data:
        widths = pd.Series(show_all(metric, data["test_set_half_width"]))
        shown["test set"] = widths.where(widths == NOT_MEASURED, "± " + widths)
    if data["seconds"].notna().any():
        shown["time per epoch"] = show_all(study.metric("seconds"), data["seconds"])
        shown[f"relative to {BASELINE}"] = show_ratios(data)
    shown["runs"] = data["n"]
    if data["status"].any():
        shown["ended otherwise"] = data["status"]
    return shown.astype(str)
