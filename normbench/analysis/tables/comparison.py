"""The comparison: result of each norm, intervals, and cost of an epoch."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import pandas as pd

from normbench.analysis.captions import caption, distinct, time_note, unfinished
from normbench.analysis.family import baseline_of, difference_to_baseline
from normbench.analysis.stats import Difference, ratio_over_processes
from normbench.analysis.study import BASELINE, Study
from normbench.analysis.tables.table import (
    NOT_MEASURED,
    OF_FINISHED,
    Table,
    as_data,
    best_mark,
    in_words,
    ratio_columns,
    result,
    show_all,
    show_means,
    show_ratios,
    survivors_note,
)
from normbench.runs.where import rank

HEADINGS = {
    "test_set_half_width": "test set",
    "seconds": "time per epoch",
    "relative_time": f"relative to {BASELINE}",
}
DIFFERENCE = ("difference", "difference_half_width", "pairs", "over_images")
NO_PAIR = "-"


def comparison_table(study: Study) -> Table:
    """The comparison of all runs, with a row for each norm and choice of settings.

    At each choice of the shared settings but the learning rate the best mean comes first.
    """
    data = _by_result(study, comparison(study))
    parts = [] if study.done.runs.empty else [*_test_set_note(study, data), time_note(study)]
    parts += [*_difference_note(study, data), *survivors_note(data)]
    headings = HEADINGS | {"difference": _difference_heading(study)}
    numbers = data.rename(columns=headings).rename(columns=in_words)
    shown = _readable(study, data)
    told, notes, basis = " ".join(parts), unfinished(study), (caption(study),)
    return Table("What each norm reached", data, shown, told, notes, numbers, basis)


def comparison(study: Study) -> pd.DataFrame:
    """A row per norm and choice of `study.settings`, in the order of the runs.

    n: finished runs, a seed each. `study.test_column`: their mean, with the columns of
    `table.result`. difference to the baseline, over so many pairs, where any norm has one.
    seconds of an epoch: median over the rounds of a bench, with the columns RATIO relative to bn
    in the same rounds, rounds, and the processes that they are of. Where images were held out:
    `study.val_column`, and chosen, whether the learning rate is the chosen rate.
    """
    groups = study.runs.groupby(["norm", *study.settings], sort=False, dropna=False)
    rows = [_row(study, group) for _, group in groups]
    table = as_data(rows, (*OF_FINISHED, *DIFFERENCE))
    if study.chooses_rates:
        marked = table.merge(study.best_rates.assign(chosen=True), how="left")
        for name in ("chosen", "is_edge"):
            table[name] = marked[name].eq(True).to_numpy()
    return table


def _by_result(study: Study, data: pd.DataFrame) -> pd.DataFrame:
    places = study.varying([name for name in study.shared_settings if name != "lr"])
    sign = -1 if study.primary.is_larger_better else 1

    rows = data.to_dict("records")  # whose numbers are Python's, as rank orders them

    def order(index: int) -> tuple[Any, ...]:
        row = rows[index]
        place = [rank(row[name]) for name in places]
        return (*place, row["n"] == 0, sign * row[study.test_column])

    return data.loc[sorted(range(len(rows)), key=order)].reset_index(drop=True)


def _row(study: Study, group: pd.DataFrame) -> dict[Any, Any]:
    done = group[group["status"] == "done"]
    row: dict[Any, Any] = group[["norm", *study.settings]].iloc[0].to_dict()
    row["n"] = len(done)
    if study.holds_out:
        row[study.val_column] = done[study.val_column].mean()
    values = list(done.get(study.test_column, []))
    reached = result(group, study.test_column, values, study.primary, with_worst=study.shows_worst)
    status = reached.pop("status")
    reached |= _difference_columns(difference_to_baseline(study, done["run"]))
    clock = study.clock(group["run"])
    ratio = ratio_over_processes(clock, study.clock_of_bn)
    seconds = median(clock.values()) if clock else math.nan
    times = {"seconds": seconds, **ratio_columns(ratio)}
    times["rounds"] = ratio.n if ratio else 0
    times["processes"] = ratio.processes if ratio else 0
    return row | reached | times | {"status": status}


def _difference_columns(difference: Difference | None) -> dict[str, Any]:
    """A difference as the columns DIFFERENCE; nan for none."""
    if difference is None:
        return dict.fromkeys(DIFFERENCE, math.nan)
    estimate = difference.estimate
    values = (estimate.mean, estimate.half_width, estimate.n, difference.over_images)
    return dict(zip(DIFFERENCE, values, strict=True))


def _difference_heading(study: Study) -> str:
    return f"difference to {baseline_of(study)}"


def _test_set_note(study: Study, data: pd.DataFrame) -> list[str]:
    """The sentence of a caption on the test set; none where the metric is no share of images."""
    if "test_set_half_width" not in data:
        return []
    images = distinct(study.runs, "num_test")
    return [f"Test set: the 95 % interval that {images} test images leave of each."]


def _difference_note(study: Study, data: pd.DataFrame) -> list[str]:
    """The sentence of a caption on differences; none where there is no pair."""
    if "difference" not in data:
        return []
    paired = data[data["difference"].notna()]
    images = "on these test images"
    if paired["over_images"].any():
        images = "test images counted as drawn too"
        images += "" if paired["over_images"].all() else " where runs have kept theirs"
    parts = ["paired over equal seeds"]
    if study.chooses_rates:
        parts.append("each norm at its chosen rate")
    if "difference_half_width" in data:
        parts.append("± is the 95 % interval of each alone")
    told = ", ".join([*parts, images])
    return [f"{_difference_heading(study).capitalize()}: {told}; no verdict."]


def _show_differences(study: Study, data: pd.DataFrame) -> list[str]:
    """`+0.8 ± 0.3 points`, with the number of pairs where it is not that of the runs."""
    baseline, metric = baseline_of(study), study.primary
    cells = []
    for row in data.to_dict("records"):
        text = NO_PAIR
        if not math.isnan(row["difference"]):
            half_width = row.get("difference_half_width", math.nan)
            text = metric.show_difference(row["difference"], half_width)
            if row["pairs"] != row["n"]:
                text += f" ({row['pairs']:.0f} of {row['n']} paired)"
        elif row["norm"] == baseline and row["n"] and row.get("chosen", True):
            text = "baseline"
        cells.append(text)
    return cells


def _readable(study: Study, data: pd.DataFrame) -> pd.DataFrame:
    metric = study.primary
    shown = data[["norm", *study.varying(study.settings)]].rename(columns=in_words)
    if study.holds_out:
        held_out = show_all(metric, data[study.val_column])
        if "chosen" in data:
            marks = map(best_mark, data["chosen"], data["is_edge"])
            held_out = [text + mark for text, mark in zip(held_out, marks, strict=True)]
        shown[in_words(study.val_column)] = held_out
    shown[in_words(study.test_column)] = show_means(metric, data, study.test_column)
    for name in OF_FINISHED:
        if name in data:
            shown[name] = show_all(metric, data[name], absent="")
    if "test_set_half_width" in data:
        widths = pd.Series(show_all(metric, data["test_set_half_width"]))
        shown["test set"] = widths.where(widths == NOT_MEASURED, "± " + widths)
    if "difference" in data:
        shown[_difference_heading(study)] = _show_differences(study, data)
    if data["seconds"].notna().any():
        shown["time per epoch"] = show_all(study.metric("seconds"), data["seconds"])
        shown[f"relative to {BASELINE}"] = show_ratios(data)
    shown["runs"] = data["n"]
    if data["status"].any():
        shown["ended otherwise"] = data["status"]
    return shown.astype(str)
