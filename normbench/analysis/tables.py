"""The comparison table: what each norm reached and what it cost, with what the figures rest on below it."""

from __future__ import annotations

import math

import pandas as pd

from normbench.analysis.stats import half_width_of_test_set, mean_interval

BASELINE = "bn"


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


def to_markdown(runs: pd.DataFrame) -> str:
    """The comparison as a Markdown table with its caption."""
    shown = _shown(comparison(runs))
    return f"{shown.to_markdown(index=False, disable_numparse=True)}\n\n{caption(runs)}\n"


def to_latex(runs: pd.DataFrame) -> str:
    """The comparison as a LaTeX table for the package booktabs, with its caption."""
    shown = _shown(comparison(runs)).map(_latex).rename(columns=_latex)
    rows = [" & ".join(row) + r" \\" for row in shown.itertuples(index=False, name=None)]
    head = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{'l' * shown.shape[1]}}}", r"\toprule"]
    body = [" & ".join(shown.columns) + r" \\", r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*head, *body, rf"\caption{{{_latex(caption(runs))}}}", r"\end{table}", ""])


def to_csv(runs: pd.DataFrame) -> str:
    """The comparison as CSV, every figure unrounded."""
    return str(comparison(runs).to_csv(index=False))


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """The comparison as people read it."""
    shown = pd.DataFrame(
        {
            "norm": table["norm"],
            **_varying(table),
            **_held_out(table),
            "test accuracy": [
                _percent(*pair) for pair in zip(table["test_accuracy"], table["half_width"], strict=True)
            ],
            "test set": [_figure(100 * value, "± {:.1f} %") for value in table["test_set_half_width"]],
            **_times(table),
            "runs": table["n"],
            "ended otherwise": table["status"],
        }
    )
    return shown.loc[:, [name for name in shown if name != "ended otherwise" or shown[name].any()]]


def _latex(value: object) -> str:
    escaped = "".join(f"\\{sign}" if sign in "%_&#$" else sign for sign in str(value))
    return escaped.replace("± ", r"$\pm$ ").replace("<", r"\textless{}")


def caption(runs: pd.DataFrame) -> str:
    """What the figures rest on: data, epochs, runs, device, precision, versions, commit, and how to read them."""
    done = runs[runs["status"] == "done"]
    if done.empty:
        return f"None of {len(runs)} runs finished."
    finished = f"{len(runs)} runs" if len(done) == len(runs) else f"{len(done)} of {len(runs)} runs finished"
    time = _time_note(done)
    return (
        f"Data {_all(runs, 'data')}, {_all(done, 'epochs')} epochs, final epoch; {finished}, {_spread(done)} "
        f"Test set: the 95 % interval that {_all(runs, 'num_test')} test images leave of each. {time} "
        f"{_all(runs, 'device')}, threads: {_all(runs, 'threads')}, {_all(runs, 'precision')}, "
        f"torch {_all(runs, 'torch')}, commit {_commit(runs)}."
    )


def _spread(done: pd.DataFrame) -> str:
    """What the ± is, for as many seeds as there are."""
    if done["seed"].nunique() == 1:
        return "one seed each, so nothing is said of the spread over seeds."
    return f"{done['seed'].nunique()} seeds; ± is the 95 % Student-t interval over them."


def _time_note(runs: pd.DataFrame) -> str:
    """How the times are to be read; those of runs that shared the machine are not there to be read."""
    shared = runs["concurrent_runs"] > 1
    if shared.all():
        return "No times are compared: the runs shared the machine."
    note = "Time per epoch is the median over the epochs' training seconds, without evaluation"
    return f"{note}; runs that shared the machine are left out of it." if shared.any() else f"{note}."


def _row(group: pd.DataFrame) -> dict[str, object]:
    done = group[group["status"] == "done"]
    alone = done[done["concurrent_runs"] == 1]
    accuracy = done["test_accuracy"].mean()
    ended = group.loc[group["status"] != "done", "status"].value_counts()
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
        "status": ", ".join(f"{count} {state}" for state, count in ended.items()),
    }


def settings_columns(table: pd.DataFrame) -> list[str]:
    """The columns besides the norm that say which runs belong together; a dotted one is a setting of the study."""
    return ["batch_size", "lr", *(name for name in table.columns if "." in name or name == "planned_epochs")]


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
    return {"validation accuracy": [_figure(100 * value, "{:.1f} %") + " (best)" * best for value, best in pairs]}


def _times(table: pd.DataFrame) -> dict[str, list[str]]:
    """The columns of times, where any was measured."""
    if table["seconds"].isna().all():
        return {}
    return {
        "time per epoch": [_figure(value, "{:.1f} s") for value in table["seconds"]],
        "relative to bn": [_figure(value, "{:.2f}x") for value in table["relative_time"]],
    }


def _percent(accuracy: float, half_width: float) -> str:
    if math.isnan(accuracy):
        return "none finished"
    return f"{100 * accuracy:.1f} %" if math.isnan(half_width) else f"{100 * accuracy:.1f} ± {100 * half_width:.1f} %"


def _figure(value: float, form: str) -> str:
    return "not measured" if math.isnan(value) else form.format(value)


def _all(runs: pd.DataFrame, column: str) -> str:
    return " / ".join(str(value) for value in runs[column].dropna().unique())


def _commit(runs: pd.DataFrame) -> str:
    """The commits of the code that ran, with + where files differed from it."""
    began = runs[runs["torch"].notna()]
    known = [
        f"{commit[:12]}{'+' if dirty else ''}" if isinstance(commit, str) else "of an installed package"
        for commit, dirty in zip(began["commit"], began["dirty"], strict=True)
    ]
    return " / ".join(dict.fromkeys(known))
