"""How soon each norm reaches a target on the test set: in epochs, and in seconds of training.

Seconds are those of the runs' own epochs, which were not timed in turns: `normbench bench` compares
the times of norms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

import pandas as pd

from normbench.analysis.captions import basis, unfinished
from normbench.analysis.stats import mean_interval
from normbench.analysis.study import LOST, Study
from normbench.analysis.tables.leaderboard import by_place
from normbench.analysis.tables.table import NOT_MEASURED, Table, in_words, show_all
from normbench.errors import NormbenchError
from normbench.tasks.metric import Metric

NOT_REACHED = "not reached"
SECONDS = "train_seconds"
ROUNDING = 1e-9  # by which the mean of equal values may be off them
COUNTED = (
    "Epochs and seconds are medians over the seeds that ended. A seed that did not reach the "
    "target, diverged or failed counts as later than any other: where half of the seeds or more "
    f"are such, the median is {NOT_REACHED}."
)
TIMED = (
    "Seconds are of the runs' own epochs, without evaluation, of runs that had the machine to "
    "themselves; they were not timed in turns."
)
UNTIMED = "Seconds are not given, since these runs shared the machine."


def target_table(study: Study, target: float | None = None) -> Table:
    """The epochs and seconds until each norm reaches a target, and how many seeds reach it.

    target: of the primary metric, in the unit in which it is shown, as 60 for 60 % accuracy; by
    default, at each choice of shared settings, the worst final mean of a norm there. Each norm is
    at its chosen learning rate; the soonest comes first.

    Raises NormbenchError for a target outside the metric's range, and where no run has finished.
    """
    chosen, metric = study.chosen, study.primary
    if chosen.done.runs.empty:
        raise NormbenchError("no target: no run has finished")
    asked = None if target is None else _checked(target, metric)
    rows = []
    of_run = dict(iter(chosen.done.metrics.groupby("run", sort=False)))
    for runs in by_place(chosen):
        goal = _worst(chosen, runs) if asked is None else asked
        rows += sorted(_rows(chosen, runs, of_run, goal), key=_soonest)
    data = pd.DataFrame(rows)
    timing = TIMED if data["seconds"].notna().any() else UNTIMED
    told = " ".join([_meaning(study, asked), COUNTED, timing])
    numbers, shown = data.rename(columns=in_words), _readable(chosen, data)
    return Table("Time to a target", data, shown, told, unfinished(study), numbers, basis(study))


def _checked(target: float, metric: Metric) -> float:
    """The target as the metric has it, unscaled."""
    low = -math.inf if metric.low is None else metric.scale * metric.low
    high = math.inf if metric.high is None else metric.scale * metric.high
    if not (math.isfinite(target) and low <= target <= high):
        raise NormbenchError(
            f"--target {target:g}: {metric.label} is a number from {low:g} to {high:g}"
        )
    return target / metric.scale


def _worst(study: Study, runs: pd.DataFrame) -> float:
    """The worst final mean of a norm among the runs; nan where none has finished."""
    done = runs[runs["status"] == "done"]
    means = []
    for _, group in done.groupby(["norm", *study.settings], dropna=False):
        means.append(mean_interval(group[study.test_column].tolist()).mean)
    worst = min if study.primary.is_larger_better else max
    return worst(means, default=math.nan)


def _rows(
    study: Study, runs: pd.DataFrame, of_run: Mapping[Any, pd.DataFrame], target: float
) -> list[dict[Any, Any]]:
    """A row for each norm and choice of settings among the runs; n: the seeds that ended.

    of_run: the rows of each finished run in `study.metrics`.
    """
    settings = ["norm", *study.varying(study.settings)]
    found = []
    for _, group in runs.groupby(settings, sort=False, dropna=False):
        ended = group[group["status"].isin(["done", *LOST])]
        epochs, seconds = [], []
        for run, status in zip(ended["run"], ended["status"], strict=True):
            reached = (math.inf, math.inf)
            if status == "done":
                reached = first_reached(of_run[run], study, target)
            epochs.append(reached[0])
            seconds.append(reached[1])
        is_alone = bool((ended["concurrent_runs"] == 1).all())
        found.append(
            {
                **group[settings].iloc[0].to_dict(),
                "target": target,
                "n": len(ended),
                "reached": sum(map(math.isfinite, epochs)),
                "epochs": median(epochs) if epochs else math.nan,
                "seconds": median(seconds) if seconds and is_alone else math.nan,
            }
        )
    return found


def _soonest(row: dict[Any, Any]) -> tuple[float, float]:
    """By epochs, then by the seeds that never reach it; unknown ones last."""
    epochs = row["epochs"]
    return math.inf if math.isnan(epochs) else epochs, row["n"] - row["reached"]


def first_reached(rows: pd.DataFrame, study: Study, target: float) -> tuple[float, float]:
    """The first epoch after which a run is no worse than the target, and the seconds until then.

    rows: of the run in `study.metrics`. Both are infinite where there is no such epoch.
    """
    metric = study.primary
    slack = -ROUNDING if metric.is_larger_better else ROUNDING
    elapsed = rows[SECONDS].cumsum()
    for epoch, value, seconds in zip(rows["epoch"], rows[study.test_column], elapsed, strict=True):
        if not metric.is_better(target + slack, value):
            return float(epoch), float(seconds)
    return math.inf, math.inf


def _meaning(study: Study, asked: float | None) -> str:
    """What the target is, and when a run reaches it."""
    metric, measured = study.primary, in_words(study.test_column)
    extreme = "lowest" if metric.is_larger_better else "highest"
    what = f"the {extreme} final mean of a norm" if asked is None else metric.show(asked)
    places = study.chosen.varying(study.shared_settings)
    if asked is None and places:
        what += f" at each {' and '.join(map(in_words, places))}"
    bound = "at least" if metric.is_larger_better else "at most"
    return f"Target: {what}. A run reaches it with its first epoch of {bound} that {measured}."


def _readable(study: Study, data: pd.DataFrame) -> pd.DataFrame:
    settings = ["norm", *study.varying(study.settings)]
    shown = data[settings].rename(columns=in_words)
    shown["target"] = show_all(study.primary, data["target"], absent="none finished")
    shown["reached"] = [f"{row.reached} of {row.n}" for row in data.itertuples()]
    shown["epochs"] = [_or_never(value, f"{value:g}") for value in data["epochs"]]
    if data["seconds"].notna().any():
        seconds = study.metric(SECONDS)
        shown["seconds"] = [_or_never(value, seconds.show(value)) for value in data["seconds"]]
    return shown.astype(str)


def _or_never(value: float, shown: str) -> str:
    if math.isnan(value):
        return NOT_MEASURED
    return shown if math.isfinite(value) else NOT_REACHED
