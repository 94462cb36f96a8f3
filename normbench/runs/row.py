"""A run as one row: state, last epoch's figures, place of training.

The list of `normbench runs` and the table `runs` of a study consist of such rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from normbench.runs.files import RunFiles
from normbench.runs.records import at, task_of
from normbench.tasks.metric import UNKNOWN_TASK, TaskRecord

KEYS = ("run", "model", "norm", "batch_size", "seed")
ENDING = ("lr", "status", "reason", "epochs")
PLACE = {
    "task": "task.name",
    "data": "data.name",
    "device": "hardware.device_name",
    "threads": "hardware.threads",
    "torch": "versions.torch",
    "commit": "git.commit",
    "dirty": "git.dirty",
}
FACTS = ("median_train_seconds", "num_test", *PLACE, "precision", "concurrent_runs")


def row_columns(tasks: Iterable[TaskRecord]) -> list[str]:
    """The columns of rows for runs of the given tasks, in the order of runs.csv."""
    figures = dict.fromkeys(column for task in tasks for column in _figures(task))
    return [*KEYS, *ENDING, *figures, *FACTS]


def run_row(files: RunFiles) -> dict[str, Any]:
    """The row of a run, with the columns of the run's task in order; None is unknown."""
    config, environment = files.config, files.environment
    last = {name: column[-1].item() for name, column in files.metrics.items()}
    seconds = files.metrics.get("train_seconds")
    row = {
        "run": files.run,
        "model": choice_label(at(config, "model.name")),
        "norm": choice_label(at(config, "norm.name")),
        "batch_size": at(config, "batch_size"),
        "seed": at(config, "seed"),
        "lr": at(config, "optim.lr"),
        "status": files.status.get("state", "new"),
        "reason": files.status.get("reason"),
        "epochs": last.get("epoch", 0),
        "median_train_seconds": None if seconds is None else float(median(seconds.tolist())),
        "precision": at(config, "runtime.precision"),
        "concurrent_runs": _concurrent_runs(config, environment),
        **{column: at(environment, key) for column, key in PLACE.items()},
        "num_test": at(config, "data.limit_test") or at(environment, "data.num_test"),
    }
    task = task_of(environment)
    row |= {column: last.get(column) for column in _figures(task)}
    return {column: row[column] for column in row_columns([task])}


def choice_label(name: str | None) -> str | None:
    """The name of a norm or model in tables: of the user's own, `file.py:Class`, the class."""
    return name and name.rpartition(":")[2]


def _figures(task: TaskRecord) -> list[str]:
    """The columns with the last epoch's figures of a task."""
    if task is UNKNOWN_TASK:
        return []
    tests = [f"test_{metric.name}" for metric in task.metrics]
    return ["train_loss", *tests, f"val_{task.primary.name}"]


def _concurrent_runs(config: Mapping[str, Any], environment: Mapping[str, Any]) -> int:
    """The most runs on the machine at a time, over all sessions of a run.

    For a run without an environment the configuration has the planned number.
    """
    counts = [at(config, "system.concurrent_runs")]
    for session in (environment, *environment.get("resumed", [])):
        counts.append(at(session, "concurrent_runs"))
    return max(count or 1 for count in counts)
