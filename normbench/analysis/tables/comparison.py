"""The comparison table: what each norm reached and what it cost, with what the figures rest on below it."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import pandas as pd

from normbench.analysis.captions import beside_norm, caption, settings_columns, unfinished
from normbench.analysis.choice import best_rates, rates_are_chosen
from normbench.analysis.frames import Clock, Frames
from normbench.analysis.stats import Estimate, half_width_of_test_set, mean_interval, median_ratio
from normbench.analysis.tables.table import (
    BASELINE,
    Table,
    as_text,
    ended_otherwise,
    figure,
    ratio_columns,
    ratios_as_text,
)
from normbench.analysis.times import clock_of, time_note


def comparison_table(frames: Frames) -> Table:
    """The comparison of all runs, with a row for each norm and choice of settings."""
    data = comparison(frames)
    basis = caption(frames.runs, test_set=True, times=time_note(frames))
    return Table("What each norm reached", data, _shown(data), basis, unfinished(frames.runs))


def comparison(frames: Frames) -> pd.DataFrame:
    """One row per norm, batch size, learning rate and whatever else runs of a norm differ in, in the order of the runs.

    Columns: norm, settings, n (finished runs, one seed each), test accuracy (mean over them), half_width (of its 95 %
    Student-t interval over seeds; nan for one), test_set_half_width (of the interval that a finite test set leaves even
    then), seconds per epoch (median over the rounds of a race), relative_time (the median over rounds of the seconds
    over bn's at the same settings), its interval and the rounds; status counts what did not finish. Where images were
    held out: their accuracy, and chosen, whether the learning rate is the one chosen by it.
    """
    runs = frames.runs
    baseline = _baseline(frames)
    groups = runs.groupby(["norm", *settings_columns(runs)], sort=False, dropna=False)
    table = pd.DataFrame([_row(frames, group, baseline) for _, group in groups])
    if rates_are_chosen(runs):
        best = best_rates(runs)
        table["chosen"] = (
            table.merge(best.assign(chosen=True), how="left")["chosen"].eq(True).to_numpy()
        )
    return table


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """The comparison as people read it."""
    accuracies = zip(table["test_accuracy"], table["half_width"], table["n"], strict=True)
    shown = pd.DataFrame(
        {
            "norm": table["norm"],
            **_varying(table),
            **_held_out(table),
            "test accuracy": [
                as_text(Estimate(*values), "test_accuracy") if values[-1] else "none finished"
                for values in accuracies
            ],
            "test set": [
                figure(100 * value, "± {:.1f} %") for value in table["test_set_half_width"]
            ],
            **_times(table),
            "runs": table["n"],
            "ended otherwise": table["status"],
        }
    )
    return shown.loc[
        :, [name for name in shown if name != "ended otherwise" or shown[name].any()]
    ].astype(str)


def _row(frames: Frames, group: pd.DataFrame, baseline: dict[Any, Clock]) -> dict[str, object]:
    done = group[group["status"] == "done"]
    accuracy, values = done["test_accuracy"].mean(), done["test_accuracy"].tolist()
    seconds = clock_of(frames, group)
    of_bn = baseline.get(tuple(group[beside_norm(group)].iloc[0]), {})
    ratio = median_ratio(seconds, of_bn)
    return {
        "norm": group["norm"].iloc[0],
        **{name: group[name].iloc[0] for name in settings_columns(group)},
        "n": len(done),
        **({"val_accuracy": done["val_accuracy"].mean()} if "val_accuracy" in group else {}),
        "test_accuracy": accuracy,
        "half_width": mean_interval(values).half_width if values else math.nan,
        "test_set_half_width": half_width_of_test_set(accuracy, int(done["num_test"].iloc[0]))
        if values
        else math.nan,
        "seconds": median(seconds.values()) if seconds else math.nan,
        **ratio_columns(ratio),
        "rounds": ratio.n if ratio else 0,
        "status": ended_otherwise(group),
    }


def _baseline(frames: Frames) -> dict[Any, Clock]:
    """The seconds of bn by round, at each choice of settings but the norm's own."""
    runs = frames.runs
    groups = runs[runs["norm"] == BASELINE].groupby(beside_norm(runs), dropna=False)
    return {key: clock_of(frames, group) for key, group in groups}


def _varying(table: pd.DataFrame) -> dict[str, pd.Series]:
    """The columns that tell rows of one norm apart, where there is more than one value."""
    return {
        name.replace("_", " "): table[name]
        for name in settings_columns(table)
        if table[name].nunique() > 1
    }


def _held_out(table: pd.DataFrame) -> dict[str, list[str]]:
    """The accuracy on held-out training images, where there are any, by which a learning rate is chosen."""
    if "val_accuracy" not in table:
        return {}
    chosen = table["chosen"] if "chosen" in table else [False] * len(table)
    pairs = zip(table["val_accuracy"], chosen, strict=True)
    return {
        "validation accuracy": [
            figure(100 * value, "{:.1f} %") + " (best)" * best for value, best in pairs
        ]
    }


def _times(table: pd.DataFrame) -> dict[str, list[str]]:
    """The columns of times, where any was measured."""
    if table["seconds"].isna().all():
        return {}
    return {
        "time per epoch": [figure(value, "{:.1f} s") for value in table["seconds"]],
        "relative to bn": ratios_as_text(table),
    }
