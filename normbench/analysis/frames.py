"""Runs as three tidy tables: runs, metrics (a row per run and epoch), steps (a row per run and logged step).

Every table has the columns that say which run a row belongs to, so that it can be read on its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from normbench.config.schema import ADDED, flatten
from normbench.runs.files import Columns, RunFiles, at, read_columns, read_run, standing

Clock = dict[
    tuple[str, int, str], float
]  # seconds of an epoch by race, round, and all settings but the norm's

KEYS = ("run", "model", "norm", "batch_size", "seed")
RUNS = (
    *KEYS,
    *(
        "lr",
        "status",
        "reason",
        "epochs",
        "train_loss",
        "test_loss",
        "test_accuracy",
        "val_accuracy",
    ),
    *(
        "median_train_seconds",
        "num_test",
        "data",
        "device",
        "threads",
        "precision",
        "concurrent_runs",
    ),
    *("torch", "commit", "dirty"),
)
METRICS = (
    "epoch",
    "steps",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "train_seconds",
)
STEPS = ("step", "epoch", "loss", "lr")
NO_SETTING = ("seed", "batch_size", "optim.lr", "model.name")  # these have columns of their own
COUNTS = ("num_test", "threads")  # unknown where a run failed before it knew its environment


@dataclass(frozen=True)
class Frames:
    """The tables of a set of runs, each run's environment and flat configuration by its id, and what was left out.

    configs is empty where the runs come from files that do not hold them. bench: what `normbench bench` timed for them;
    clocks: what follows from it for a run, if anything was timed of its settings.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    steps: pd.DataFrame
    environments: dict[str, dict[str, Any]]
    configs: dict[str, dict[str, Any]]
    notes: tuple[str, ...] = ()
    bench: pd.DataFrame = field(default_factory=pd.DataFrame)
    clocks: dict[str, Clock] = field(default_factory=dict)

    def only(self, kept: Collection[str]) -> Frames:
        """The same of these runs alone."""
        runs, metrics, steps = (
            table[table["run"].isin(kept)].reset_index(drop=True)
            for table in (self.runs, self.metrics, self.steps)
        )
        environments, configs = (
            {run: known[run] for run in known if run in kept}
            for known in (self.environments, self.configs)
        )
        clocks = {run: self.clocks[run] for run in self.clocks if run in kept}
        return Frames(runs, metrics, steps, environments, configs, self.notes, self.bench, clocks)


def read_frames(paths: Iterable[Path], refused: Iterable[RunFiles] = ()) -> Frames:
    """Reads run directories, in the order given; one that failed early has its status, its reason and empty figures.

    `refused` runs, which have no directory, follow as rows of the runs table. A run with a damaged file is left out,
    with a note.
    """
    files, steps, rows, notes = [], [], [], []
    for path in paths:
        run, columns = read_run(path), _read_steps(path / "steps.csv")
        if run.damaged or columns is None:
            name, what = next(iter(run.damaged.items()), ("steps.csv", "is damaged"))
            notes.append(f"left out: {path}: {name} {what}")
        else:
            files.append(run)
            steps.append(columns)
            rows.append(run_row(run) | standing(path, run))
    for run in refused:
        files.append(run)
        rows.append(run_row(run))
    configs = {run.run: _without_places(flatten(run.config)) for run in files}
    return Frames(
        with_settings(pd.DataFrame(rows, columns=list(RUNS)), configs),
        _long(rows, [run.metrics for run in files], METRICS),
        _long(rows, steps, STEPS),
        {run.run: run.environment for run in files if run.environment},
        configs,
        tuple(notes),
    )


def run_row(files: RunFiles) -> dict[str, Any]:
    """One row of the table of runs: how it ended, the last epoch's figures, and where it was made. None is unknown."""
    config, environment = files.config, files.environment
    last = {name: column[-1].item() for name, column in files.metrics.items()}
    seconds = files.metrics.get("train_seconds")
    return {
        "run": files.run,
        "model": at(config, "model.name"),
        "norm": _norm(at(config, "norm.name")),
        "batch_size": at(config, "batch_size"),
        "seed": at(config, "seed"),
        "lr": at(config, "optim.lr"),
        "status": files.status.get("state", "new"),
        "reason": files.status.get("reason"),
        "epochs": last.get("epoch", 0),
        "train_loss": last.get("train_loss"),
        "test_loss": last.get("test_loss"),
        "test_accuracy": last.get("test_accuracy"),
        "val_accuracy": last.get("val_accuracy"),
        "median_train_seconds": None if seconds is None else float(np.median(seconds)),
        "num_test": at(config, "data.limit_test") or at(environment, "data.num_test"),
        "data": at(environment, "data.name"),
        "device": at(environment, "hardware.device_name"),
        "threads": at(environment, "hardware.threads"),
        "precision": at(config, "runtime.precision"),
        "concurrent_runs": _concurrent_runs(config, environment),
        "torch": at(environment, "versions.torch"),
        "commit": at(environment, "git.commit"),
        "dirty": at(environment, "git.dirty"),
    }


def with_settings(runs: pd.DataFrame, configs: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The table of runs with a column, as text, for every other setting in which runs of one norm differ.

    `val_accuracy` stays in it where any run held images out. Without configurations, the settings are those it has.
    """
    known = [] if not configs else settings_of_study(runs)
    table = runs.drop(columns=known).assign(**settings_that_vary(runs["run"], configs))
    if "val_accuracy" in table and table["val_accuracy"].isna().all():
        table = table.drop(columns="val_accuracy")
    return table.astype({name: "Int64" for name in COUNTS if table[name].isna().any()})


def settings_of_study(runs: pd.DataFrame) -> list[str]:
    """The columns of settings that have no fixed column: dotted keys, and the epochs that a run was to take."""
    return [name for name in runs.columns if is_setting(name)]


def is_setting(column: str) -> bool:
    """Whether a column is a setting in which the runs of a study differ, whose values are text."""
    return "." in column or column == "planned_epochs"


def settings_that_vary(
    runs: Iterable[str], configs: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[str]]:
    """For every setting in which runs of one norm differ, its value as text in each; not those with fixed columns."""
    flat = [configs.get(run, {}) for run in runs]
    keys = dict.fromkeys(key for config in flat for key in config if key not in NO_SETTING)
    values = {key: [str(config.get(key, ADDED.get(key, ""))) for config in flat] for key in keys}
    norms = [_norm(config.get("norm.name")) for config in flat]
    varying = {
        key: column
        for key, column in values.items()
        if len({*zip(norms, column, strict=True)}) > len({*norms})
    }
    return {
        {"epochs": "planned_epochs"}.get(key, key): column
        for key, column in varying.items()
        if not _is_implied(column, varying.get(f"{key.split('.')[0]}.name"), key)
    }


def _norm(name: str | None) -> str | None:
    """What a norm is called in tables: one of the user's own, file.py:Class, by its class."""
    return name and name.rpartition(":")[2]


def _is_implied(column: list[str], names: list[str] | None, key: str) -> bool:
    """Whether a setting only says what the name of its group does: betas, where optim.name is adam or sgd."""
    if names is None or key.endswith(".name"):
        return False
    return len({*zip(names, column, strict=True)}) == len({*names})


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without what is about this machine: folders, workers, display."""
    return {
        key: value
        for key, value in config.items()
        if not key.startswith(("system.", "data.root", "norm.file"))
    }


def _concurrent_runs(config: dict[str, Any], environment: dict[str, Any]) -> int:
    """The most runs that shared the machine in any session of this one; by the configuration before the first."""
    resumed = environment.get("resumed")
    sessions = [environment, *(resumed if isinstance(resumed, list) else [])]
    counts = [at(session, "concurrent_runs") for session in sessions] + [
        at(config, "system.concurrent_runs")
    ]
    return max((count for count in counts if isinstance(count, int)), default=1)


def _read_steps(path: Path) -> Columns | None:
    """The logged steps of a run; None where they cannot be read."""
    try:
        return read_columns(path.read_text()) if path.exists() else {}
    except (ValueError, OSError):
        return None


def _long(rows: list[dict[str, Any]], parts: list[Columns], names: tuple[str, ...]) -> pd.DataFrame:
    """One table of the columns of all runs, with the keys of each; with at least `names` where no run has a row."""
    filled = [(row, part) for row, part in zip(rows, parts, strict=False) if part]
    if not filled:
        return pd.DataFrame(columns=[*KEYS, *names])
    lengths = [len(part["epoch"]) for _, part in filled]
    keys = {
        key: np.repeat(np.array([row[key] for row, _ in filled], dtype=object), lengths)
        for key in KEYS
    }
    found = dict.fromkeys(name for _, part in filled for name in part)
    columns = {name: _joined(name, filled, lengths) for name in found}
    return pd.DataFrame(keys | columns).infer_objects()


def _joined(name: str, filled: list[tuple[dict[str, Any], Columns]], lengths: list[int]) -> Any:
    """One column of all runs, nan for those that have none."""
    return np.concatenate(
        [
            part[name] if name in part else np.full(n, np.nan)
            for (_, part), n in zip(filled, lengths, strict=True)
        ]
    )
