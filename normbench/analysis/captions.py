"""What figures rest on, in words: data, epochs, runs, seeds, device, versions, commit, and what did not finish."""

from __future__ import annotations

import pandas as pd

from normbench.analysis.frames import settings_of_study


def caption(runs: pd.DataFrame, *, test_set: bool = False, times: str = "") -> str:
    """What a table of these runs rests on and how to read it; test_set: it has columns of these; times: their note."""
    done = runs[runs["status"] == "done"]
    if done.empty:
        return f"None of {counted(len(runs), 'run')} finished."
    finished = (
        counted(len(runs), "run")
        if len(done) == len(runs)
        else f"{len(done)} of {len(runs)} runs finished"
    )
    floor = (
        f"Test set: the 95 % interval that {distinct(runs, 'num_test')} test images leave of each. "
        * test_set
    )
    return (
        f"Data {distinct(runs, 'data')}, {epochs(done)}, final epoch; {finished}, {_spread(done)} "
        f"{floor}{times}"
        f"{distinct(runs, 'device')}, threads: {distinct(runs, 'threads')}, {distinct(runs, 'precision')}, "
        f"torch {distinct(runs, 'torch')}, commit {commits(runs)}."
    )


def unfinished(runs: pd.DataFrame) -> tuple[str, ...]:
    """A line for each kind of run that has no result: which, how many, how it ended, and why."""
    ended = runs[runs["status"] != "done"]
    keys = ["norm", *settings_columns(runs), "status", "reason"]
    return tuple(
        _line(dict(zip(keys, key, strict=True)), len(group), runs)
        for key, group in ended.groupby(keys, sort=False, dropna=False)
    )


def settings_columns(table: pd.DataFrame) -> list[str]:
    """The columns besides the norm that say which runs belong together; a dotted one is a setting of the study."""
    return ["model", "batch_size", "lr", *settings_of_study(table)]


def beside_norm(table: pd.DataFrame) -> list[str]:
    """The settings that norms can share: all but a norm's own options."""
    return [name for name in settings_columns(table) if not name.startswith("norm.")]


def labelled(runs: pd.DataFrame) -> pd.DataFrame:
    """With the column `line`: the norm, and its options where any run differs in them."""
    options = [
        name
        for name in settings_columns(runs)
        if name.startswith("norm.") and runs[name].nunique() > 1
    ]
    named = runs[options].rename(
        columns=lambda name: name.removeprefix("norm.").removeprefix("options.")
    )
    labels = [
        f"{norm} {describe({str(name): value for name, value in given.items() if value != ''})}"
        for norm, given in zip(runs["norm"], named.to_dict("records"), strict=True)
    ]
    return runs.assign(line=[label.strip() for label in labels])


def describe(settings: dict[str, object]) -> str:
    """Settings in words: batch size 8, lr 0.001, no num groups."""
    return ", ".join(_in_words(name.replace("_", " "), value) for name, value in settings.items())


def counted(number: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{number} {noun}{'s' * (number != 1)}"


def seeds(number: int) -> str:
    """One seed, 2 seeds."""
    return "one seed" if number == 1 else f"{number} seeds"


def epochs(runs: pd.DataFrame) -> str:
    """5 epochs; 1 / 5 epochs where runs differ."""
    values = distinct(runs, "epochs")
    return f"{values} epoch{'s' * (values != '1')}"


def distinct(runs: pd.DataFrame, column: str) -> str:
    """The values of a column, each once."""
    return " / ".join(str(value) for value in runs[column].dropna().unique())


def commits(runs: pd.DataFrame) -> str:
    """The commits of the code that ran, with + where files differed from it."""
    began = runs[runs["torch"].notna()]
    known = [
        f"{commit[:12]}{'+' if dirty else ''}"
        if isinstance(commit, str) and commit
        else "of an installed package"
        for commit, dirty in zip(began["commit"], began["dirty"], strict=True)
    ]
    return " / ".join(dict.fromkeys(known))


def _in_words(name: str, value: object) -> str:
    if value == "":
        return f"no {name}"
    name = name.removesuffix(".name")
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def _line(kind: dict[str, object], count: int, runs: pd.DataFrame) -> str:
    varying = {name: kind[name] for name in settings_columns(runs) if runs[name].nunique() > 1}
    what = ", ".join(filter(None, [str(kind["norm"]), describe(varying)]))
    reason = f": {' '.join(kind['reason'].split())}" if isinstance(kind["reason"], str) else ""
    return f"{what}: {count} {kind['status']}{reason}"


def _spread(done: pd.DataFrame) -> str:
    """What the ± is, for as many seeds as there are."""
    if done["seed"].nunique() == 1:
        return "one seed each, so nothing is said of the spread over seeds."
    return f"{seeds(done['seed'].nunique())}; ± is the 95 % Student-t interval over them."
