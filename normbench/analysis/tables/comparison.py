"""The comparison table: what each norm reached and what it cost, with what the figures rest on below it."""

from __future__ import annotations

import math

import pandas as pd

from normbench.analysis.frames import Frames
from normbench.analysis.provenance import caption, settings_columns, unfinished
from normbench.analysis.stats import Estimate, half_width_of_test_set, mean_interval
from normbench.analysis.tables.table import BASELINE, Table, ended_otherwise, figure, percent


def comparison_table(frames: Frames) -> Table:
    """The comparison of all runs, with a row for each norm and choice of settings."""
    data = comparison(frames.runs)
    basis = caption(frames.runs, test_set=True)
    return Table("What each norm reached", data, _shown(data), basis, unfinished(frames.runs))


def comparison(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per norm, batch size, learning rate and whatever else runs of a norm differ in, in the order of the runs.

    Columns: norm, batch size, lr, n (finished runs, one seed each), test accuracy (mean over them), half_width (of its
    95 % Student-t interval over seeds; nan for one), test_set_half_width (of the interval that a finite test set leaves
    even then), seconds per epoch (median) and their ratio to bn;
    status counts what did not finish. Seconds of runs that shared the machine are left out. Where images were held out:
    their accuracy, and chosen, the learning rate with the best of it among those of the same norm and settings.
    """
    rows = [_row(group) for _, group in runs.groupby(["norm", *settings_columns(runs)], sort=False, dropna=False)]
    table = pd.DataFrame(rows)
    table["relative_time"] = _relative_time(table)
    if "val_accuracy" in table:
        others = table.groupby(["norm", *(name for name in settings_columns(table) if name != "lr")], dropna=False)
        table["chosen"] = others["val_accuracy"].transform("max") == table["val_accuracy"]
    return table


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """The comparison as people read it."""
    accuracies = zip(table["test_accuracy"], table["half_width"], table["n"], strict=True)
    shown = pd.DataFrame(
        {
            "norm": table["norm"],
            **_varying(table),
            **_held_out(table),
            "test accuracy": [percent(Estimate(*values)) for values in accuracies],
            "test set": [figure(100 * value, "± {:.1f} %") for value in table["test_set_half_width"]],
            **_times(table),
            "runs": table["n"],
            "ended otherwise": table["status"],
        }
    )
    return shown.loc[:, [name for name in shown if name != "ended otherwise" or shown[name].any()]].astype(str)


def _row(group: pd.DataFrame) -> dict[str, object]:
    done = group[group["status"] == "done"]
    alone = done[done["concurrent_runs"] == 1]
    accuracy = done["test_accuracy"].mean()
    return {
        "norm": group["norm"].iloc[0],
        **{name: group[name].iloc[0] for name in settings_columns(group)},
        "n": len(done),
        **({"val_accuracy": done["val_accuracy"].mean()} if "val_accuracy" in group else {}),
        "test_accuracy": accuracy,
        "half_width": mean_interval(done["test_accuracy"].tolist()).half_width if len(done) else math.nan,
        "test_set_half_width": half_width_of_test_set(accuracy, int(done["num_test"].iloc[0]))
        if len(done)
        else math.nan,
        "seconds": alone["median_train_seconds"].median(),
        "status": ended_otherwise(group),
    }


def _relative_time(table: pd.DataFrame) -> list[float]:
    """Seconds over those of bn at the same batch size, learning rate, and all else but options of the norm."""
    names = [name for name in settings_columns(table) if not name.startswith("norm.")]
    baseline = table[table["norm"] == BASELINE].groupby(names, dropna=False)["seconds"].median().to_dict()
    keys = table[names].itertuples(index=False, name=None)
    return [seconds / baseline.get(key, math.nan) for key, seconds in zip(keys, table["seconds"], strict=True)]


def _varying(table: pd.DataFrame) -> dict[str, pd.Series]:
    """The columns that tell rows of one norm apart, where there is more than one value."""
    return {name.replace("_", " "): table[name] for name in settings_columns(table) if table[name].nunique() > 1}


def _held_out(table: pd.DataFrame) -> dict[str, list[str]]:
    """The accuracy on held-out training images, where there are any, by which a learning rate is chosen."""
    if "val_accuracy" not in table:
        return {}
    pairs = zip(table["val_accuracy"], table["chosen"], strict=True)
    return {"validation accuracy": [figure(100 * value, "{:.1f} %") + " (best)" * best for value, best in pairs]}


def _times(table: pd.DataFrame) -> dict[str, list[str]]:
    """The columns of times, where any was measured."""
    if table["seconds"].isna().all():
        return {}
    return {
        "time per epoch": [figure(value, "{:.1f} s") for value in table["seconds"]],
        "relative to bn": [figure(value, "{:.2f}x") for value in table["relative_time"]],
    }
