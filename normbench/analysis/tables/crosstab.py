"""One figure over settings: norm x batch size, norm x learning rate, or any choice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from normbench.analysis.captions import basis, caption, distinct, unfinished
from normbench.analysis.loading import COMPARABLE
from normbench.analysis.settings import describe
from normbench.analysis.study import Study
from normbench.analysis.tables.table import (
    Table,
    as_data,
    best_mark,
    in_words,
    result,
    show_result,
    survivors_note,
)
from normbench.errors import NormbenchError, unknown
from normbench.runs.row import KEYS
from normbench.tasks.metric import Metric, metric_of

NO_RUN = "no run"
CLOCKS = ("seconds", "second")  # figures disturbed by other runs on the machine


def cross_table(study: Study, by: Sequence[str], column: str | None = None) -> Table:
    """A final figure by settings: rows by all but the last of `by`, columns by the last.

    column: of metrics.csv; by default the primary metric on the test set. Where each norm is a row,
    the best one in the last column comes first.
    Raises NormbenchError as `cells` does.
    """
    column = column or study.test_column
    data = cells(study, by, column)
    shown = _grid(_readable(study, data, column, by), data[[*by]], NO_RUN).astype(str)
    numbers = _grid(data[column], data[[*by]], math.nan)
    if by[0] == "norm" and len(by) <= 2:
        best_first = _by_result(numbers, study.metric(column))
        shown, numbers = (one.loc[best_first].reset_index(drop=True) for one in (shown, numbers))
    heading = f"{in_words(column).capitalize()} by {' and '.join(map(in_words, by))}"
    told = " ".join(_remarks(study, data, study.metric(column)))
    rests_on = (caption(study),) if "lr" in by else basis(study)
    return Table(heading, data, shown, told, unfinished(study), numbers, rests_on)


def cells(study: Study, by: Sequence[str], column: str) -> pd.DataFrame:
    """A row for each choice of the settings `by` with a run.

    `column`: the mean of the final figure, with the columns of `table.result`. Times leave out
    runs on a shared machine. Where `by` leaves the learning rate open, each norm is at its chosen
    rate.

    Raises NormbenchError for an unknown setting or figure, and where runs of one cell differ in
    more than their seed.
    """
    _check_names(study, by)
    if "lr" not in by:
        study = study.chosen
    runs = study.runs.assign(value=study.runs["run"].map(final(study, column)))
    groups = _ascending(runs, by).groupby(list(by), sort=False, dropna=False)
    metric = study.metric(column)
    on_test_set = column.startswith("test_") and metric_of(column, study.task.metrics) is not None
    rows = []
    for key, group in groups:
        settings = dict(zip(by, key, strict=True))
        _check_alike(study, settings, group)
        values = group["value"].dropna().tolist()
        reached = result(group, column, values, metric, on_test_set=on_test_set)
        rows.append(settings | reached)
    return as_data(rows)


def final(study: Study, column: str) -> dict[Any, float]:
    """The figure of each finished run at its last epoch, by run.

    Times are medians over the epochs, of runs alone on the machine.
    Raises NormbenchError for an unknown column.
    """
    known = [str(name) for name in study.metrics if name not in (*KEYS, "epoch", "steps", "lr")]
    if column not in known:
        raise unknown("metric", column, sorted(known))
    if column.endswith(CLOCKS):
        alone = study.done.runs["concurrent_runs"] == 1
        rows = study.only(study.done.runs.loc[alone, "run"]).metrics
        return dict(rows.groupby("run")[column].median())
    last = study.done.metrics.drop_duplicates("run", keep="last")
    return dict(zip(last["run"], last[column], strict=True))


def _readable(study: Study, data: pd.DataFrame, column: str, by: Sequence[str]) -> pd.Series:
    """The readable cells, with a mark at the best learning rate of each row."""
    with_n = data.loc[data["n"] > 0, "n"].nunique() > 1
    metric = study.metric(column)
    cells = data.to_dict("records")
    found = [show_result(metric, cell, column, with_n=with_n) for cell in cells]
    texts = pd.Series(found, name=column)
    if len(by) > 1 and by[-1] == "lr" and column == study.val_column and study.chooses_rates:
        beside = [data[name] for name in by[:-1]]
        tried = data.groupby(beside, sort=False, dropna=False)["lr"]
        is_edge = (data["lr"] == tried.transform("min")) | (data["lr"] == tried.transform("max"))
        sign = 1 if metric.is_larger_better else -1
        # Rows without a result have no best cell.
        scores = (sign * data[column]).dropna()
        for index in scores.groupby(beside, sort=False).idxmax():
            texts[index] += best_mark(True, bool(is_edge[index]))
    return texts


def _grid(cells: pd.Series, settings: pd.DataFrame, empty: Any) -> pd.DataFrame:
    """The cells in a grid, with a column for each value of the last of several settings."""
    if settings.shape[1] == 1:
        return settings.join(cells).rename(columns=in_words)
    last = settings.columns[-1]
    places = pd.MultiIndex.from_frame(settings)
    grid = cells.set_axis(places).unstack(last, fill_value=empty, sort=False)
    grid = grid[[value for value in settings[last].unique() if value in grid.columns]]
    grid.columns = pd.Index([describe({last: value}) for value in grid.columns])
    return grid.reset_index().rename(columns=in_words)


def _by_result(numbers: pd.DataFrame, metric: Metric) -> pd.Index:
    """The rows of a grid in the order of their last column; without a number they are the last."""
    last = numbers.iloc[:, -1].astype(float)
    return last.sort_values(ascending=not metric.is_larger_better, kind="stable").index


def _remarks(study: Study, data: pd.DataFrame, metric: Metric) -> Iterator[str]:
    if "test_set_half_width" in data:
        widest = metric.show_difference(data["test_set_half_width"].max())
        images = distinct(study.runs, "num_test")
        yield f"{images} test images leave open up to ± {widest.lstrip('+')} besides."
    yield from survivors_note(data)


def _check_names(study: Study, by: Sequence[str]) -> None:
    allowed = {"norm", *COMPARABLE, *study.settings}
    for place, name in enumerate(by):
        if name in by[:place]:
            raise NormbenchError(f"--by {','.join(by)} names {name} twice")
        if name not in allowed:
            raise unknown("setting", name, sorted(allowed))


def _check_alike(study: Study, settings: dict[str, Any], group: pd.DataFrame) -> None:
    done = group[group["status"] == "done"]
    for name in ("norm", *COMPARABLE, *study.settings):
        if name not in settings and done[name].nunique() > 1:
            raise NormbenchError(
                f"runs of {describe(settings)} differ in {name}: add it to --by, or choose with "
                f"--where {name}={done[name].iloc[0]}"
            )


def _ascending(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    numbers = [name for name in by if pd.api.types.is_numeric_dtype(runs[name])]
    return runs.sort_values(numbers, kind="stable") if numbers else runs
