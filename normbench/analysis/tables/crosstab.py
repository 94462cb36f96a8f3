"""One figure over settings: norm x batch size, norm x learning rate, or any other; what has none says why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from normbench.analysis.captions import caption, describe, distinct, settings_columns, unfinished
from normbench.analysis.choice import at_chosen_rate, chosen_rates, rates_are_chosen
from normbench.analysis.frames import KEYS, Frames
from normbench.analysis.loading import COMPARABLE
from normbench.analysis.stats import Estimate, half_width_of_test_set, mean_interval
from normbench.analysis.tables.table import NOT_MEASURED, Table, as_text, ended_otherwise
from normbench.errors import NormbenchError, unknown

NO_RUN = "no run"
CLOCKS = ("seconds", "second")  # what other runs on the machine disturb


def cross_table(frames: Frames, by: Sequence[str], metric: str = "test_accuracy") -> Table:
    """The final `metric` by settings: rows by all but the last of `by`, columns by the last.

    Raises NormbenchError as `cells` does.
    """
    data = cells(frames, by, metric)
    uniform = data.loc[data["n"] > 0, "n"].nunique() <= 1
    shown = data.assign(cell=[_shown(cell, metric, uniform) for cell in data.to_dict("records")])
    if (
        len(by) > 1
        and by[-1] == "lr"
        and metric == "val_accuracy"
        and rates_are_chosen(frames.runs)
    ):
        best = data.loc[
            data.groupby(list(by[:-1]), sort=False)[metric].idxmax().dropna().astype(int)
        ].index
        shown.loc[best, "cell"] += " (best)"
    if len(by) == 1:
        wide = shown[[*by, "cell"]].rename(columns={"cell": _title(metric)})
    else:
        column = by[-1]
        wide = shown.set_index(list(by))["cell"].unstack(column, fill_value=NO_RUN, sort=False)
        wide = wide[[value for value in data[column].unique() if value in wide.columns]]
        wide.columns = pd.Index([describe({column: value}) for value in wide.columns])
        wide = wide.reset_index()
    wide = wide.rename(columns={name: name.replace("_", " ") for name in by}).astype(str)
    heading = (
        f"{_title(metric).capitalize()} by {' and '.join(name.replace('_', ' ') for name in by)}"
    )
    basis = " ".join([caption(frames.runs), *_remarks(frames, data, by)])
    return Table(heading, data, wide, basis, unfinished(frames.runs))


def cells(frames: Frames, by: Sequence[str], metric: str = "test_accuracy") -> pd.DataFrame:
    """A row for each choice of the settings `by` that has a run: n, mean and half_width of the final metric over seeds.

    test_set_half_width is what the test set leaves open of an accuracy on it; status counts what did not finish. Times
    leave out runs that shared the machine. Where `by` leaves the learning rate open and images were held out, runs are
    those of the rate that was best on them.

    Raises NormbenchError for a name that is no setting or metric, and where runs of one cell differ in more than seed.
    """
    allowed = {"norm", *COMPARABLE, *settings_columns(frames.runs)}
    for place, name in enumerate(by):
        if name in by[:place]:
            raise NormbenchError(f"--by {','.join(by)} names {name} twice")
        if name not in allowed:
            raise unknown("setting", name, sorted(allowed))
    runs = frames.runs if "lr" in by else at_chosen_rate(frames.runs)
    runs = runs.assign(value=runs["run"].map(final(frames, metric)))
    groups = _sorted(runs, by).groupby(list(by), sort=False, dropna=False)
    return pd.DataFrame(
        [_cell(dict(zip(by, key, strict=True)), group, metric) for key, group in groups]
    )


def final(frames: Frames, metric: str) -> dict[Any, float]:
    """The metric of each finished run at its last epoch; clocks are medians over the epochs of runs that were alone.

    Raises NormbenchError for a metric that no run has.
    """
    known = [name for name in frames.metrics.columns if name not in (*KEYS, "epoch", "steps", "lr")]
    if metric not in known:
        raise unknown("metric", metric, sorted(known))
    runs = frames.runs[frames.runs["status"] == "done"]
    if metric.endswith(CLOCKS):
        alone = runs.loc[runs["concurrent_runs"] == 1, "run"]
        rows = frames.metrics[frames.metrics["run"].isin(alone)]
        return dict(rows.groupby("run")[metric].median())
    last = frames.metrics[frames.metrics["run"].isin(runs["run"])].drop_duplicates(
        "run", keep="last"
    )
    return dict(zip(last["run"], last[metric], strict=True))


def _cell(settings: dict[str, Any], group: pd.DataFrame, metric: str) -> dict[str, Any]:
    _check_alike(settings, group)
    values = group["value"].dropna().tolist()
    estimate = mean_interval(values) if values else Estimate(math.nan, math.nan, 0)
    on_test_set = metric.startswith("test_accuracy") and values
    num_test = int(group["num_test"].dropna().iloc[0]) if on_test_set else 0
    return settings | {
        "n": estimate.n,
        metric: estimate.mean,
        "half_width": estimate.half_width,
        **(
            {"test_set_half_width": half_width_of_test_set(estimate.mean, num_test)}
            if on_test_set
            else {}
        ),
        "status": ended_otherwise(group),
    }


def _remarks(frames: Frames, data: pd.DataFrame, by: Sequence[str]) -> Iterator[str]:
    """What the caption adds: what the test set leaves open, and how a learning rate was chosen."""
    if "test_set_half_width" in data:
        widest = 100 * data["test_set_half_width"].max()
        yield f"{distinct(frames.runs, 'num_test')} test images leave open up to ± {widest:.1f} points besides."
    if "lr" not in by and rates_are_chosen(frames.runs):
        yield chosen_rates(frames.runs)


def _title(metric: str) -> str:
    """A metric in words."""
    return metric.replace("val_", "validation ").replace("_", " ")


def _check_alike(settings: dict[str, Any], group: pd.DataFrame) -> None:
    """Raises where runs of one cell differ in more than their seed."""
    done = group[group["status"] == "done"]
    for name in ("norm", *COMPARABLE, *settings_columns(group)):
        if name not in settings and done[name].nunique() > 1:
            raise NormbenchError(
                f"runs of {describe(settings)} differ in {name}: add it to --by, or choose with "
                f"--where {name}={done[name].iloc[0]}"
            )


def _sorted(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The runs with numbers in ascending order, and names as they come."""
    numbers = [name for name in by if pd.api.types.is_numeric_dtype(runs[name])]
    return runs.sort_values(numbers, kind="stable") if numbers else runs


def _shown(cell: dict[Any, Any], metric: str, uniform: bool) -> str:
    """What a cell reached, or how its runs ended; counts where cells differ in them."""
    if cell["n"] == 0:
        return str(cell["status"]) or NOT_MEASURED
    text = as_text(Estimate(cell[metric], cell["half_width"], cell["n"]), metric)
    remarks = [] if uniform else [f"n = {cell['n']}"]
    remarks += [cell["status"]] if cell["status"] else []
    return f"{text} ({', '.join(remarks)})" if remarks else text
