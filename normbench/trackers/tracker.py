"""Defines a tracker: a tool that shows metrics, settings and states of many runs to people.

Each tool is a registered function `() -> Open`, which says at once whether its package is there.
What it is told is the same of a run that trains and of a finished one: a Subject, then rows in the
order of training, then how the run ended.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from normbench.errors import NormbenchError
from normbench.registry import Registry
from normbench.runs.columns import COUNTED, Columns, quantity_of
from normbench.runs.records import at, task_of
from normbench.runs.row import PLACE
from normbench.runs.settings import study_settings
from normbench.tasks.metric import Metric

Axis = Literal["step", "epoch"]
PROJECT = "normbench"  # the experiment or project of all runs, where the tool has such


@dataclass(frozen=True)
class Subject:
    """A run as trackers are told of it.

    run: its id; settings: flat, those of the experiment; facts: data, device, versions and
    commit by name; metrics: those of its task.
    """

    run: str
    settings: Mapping[str, Any]
    facts: Mapping[str, str]
    metrics: tuple[Metric, ...]

    def meaning(self, axis: Axis, column: str) -> str:
        """Direction and unit of a column: `larger is better; times 100 in %`; "" if it has none."""
        # steps.csv is of training alone, and its columns do not say so.
        metric = quantity_of(f"train_{column}" if axis == "step" else column, self.metrics)
        return "" if metric is None else _in_words(metric)

    @property
    def notes(self) -> str:
        """The facts and the meaning of the task's metrics, as Markdown."""
        facts = [f"- {name}: {value}" for name, value in self.facts.items()]
        metrics = [f"- {metric.title}: {_in_words(metric)}" for metric in self.metrics]
        return "\n".join([*facts, *metrics])


def subject_of(run: str, settings: Mapping[str, Any], environment: Mapping[str, Any]) -> Subject:
    """The subject of a run with this id, flat configuration and env.json."""
    facts = {}
    for name, key in PLACE.items():
        value = at(environment, key)
        if value is not None:
            facts[name] = str(value)
    return Subject(run, study_settings(settings), facts, task_of(environment).metrics)


class Tracker(Protocol):
    """The open record of one run. Any method may raise."""

    def log(self, axis: Axis, place: int, values: Mapping[str, float]) -> None:
        """Records the figures of a row by column; `place` is its step or epoch."""

    def end(self, state: str, reason: str | None, picture: bytes | None) -> None:
        """Records how the run ended, with the PNG that its network made, and closes the record."""


# From the folder of the tool's files, the run, and whether the run is new: a new run's record is
# written anew, and a resumed run's record goes on.
Open = Callable[[Path, Subject, bool], Tracker]
trackers: Registry[Open] = Registry("tracker")


def require_package(name: str) -> None:
    """Raises NormbenchError where the package, which is also the extra, is not installed."""
    found = importlib.util.find_spec(name)
    # A folder of that name, such as one with records, has no origin.
    if found is None or found.origin is None:
        raise NormbenchError(f"tracker {name} needs {name}: pip install 'normbench[{name}]'")


def tell_step(tracker: Tracker, row: Mapping[str, float]) -> None:
    """Tells a row of steps.csv."""
    tracker.log("step", int(row["step"]), _measured(row))


def tell_epoch(tracker: Tracker, row: Mapping[str, float]) -> None:
    """Tells a row of metrics.csv, without what was not measured in that epoch."""
    measured = _measured(row)
    known = {name: value for name, value in measured.items() if not math.isnan(value)}
    tracker.log("epoch", int(row["epoch"]), known)


def tell_rows(tracker: Tracker, metrics: Columns, steps: Columns) -> None:
    """Tells the rows of a run in the order of training: an epoch after its steps."""
    waiting = _rows(steps)
    for row in _rows(metrics):
        while waiting and waiting[0]["epoch"] <= row["epoch"]:
            tell_step(tracker, waiting.pop(0))
        tell_epoch(tracker, row)
    for step in waiting:
        tell_step(tracker, step)


def _measured(row: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name not in COUNTED}


def _rows(columns: Columns) -> list[dict[str, float]]:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _in_words(metric: Metric) -> str:
    direction = f"{metric.better} is better"
    if not metric.unit:
        return direction
    scaled = "" if metric.scale == 1 else f"times {metric.scale:g} "
    return f"{direction}; {scaled}in {metric.unit}"
