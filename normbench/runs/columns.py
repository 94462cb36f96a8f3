"""The columns of metrics.csv and steps.csv: names, numbers, and the range of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from normbench.tasks.metric import UNKNOWN_TASK, Metric, TaskRecord, metric_of

Columns = dict[str, npt.NDArray[Any]]

COUNTED = ("epoch", "steps", "step")  # whole numbers; the rest is measured
LARGEST_COUNT = 2**53  # whole numbers up to here are exact as floats
STEP_COLUMNS = ("step", "epoch", "loss", "lr")
# Columns of metrics.csv for every task, by the last word of their name.
QUANTITIES = {
    "seconds": Metric("time", "s", "smaller", decimals=1, low=0),
    "second": Metric("speed", "images/s", "larger", decimals=0, low=0),
    "mib": Metric("memory", "MiB", "smaller", decimals=0, low=0),
}
MEASURED = (
    "train_seconds",
    "eval_seconds",
    "compile_seconds",
    "images_per_second",
    "peak_memory_mib",
)
# Kinds of changed appearance under which train.appearance evaluates.
APPEARANCES = ("brightness", "contrast", "saturation", "hue")
FEATURE_SHIFT = Metric("feature shift", "", "smaller", decimals=3, low=0, high=2)
# share_NAME: the mean over the layers of a share that a norm learns and tells of itself.
SHARES = "share_"
SHARE = Metric("share", "", "larger", decimals=2, low=0, high=1)
# The weight of an image's own statistics in BatchNorm's evaluation by example weighing.
EXAMPLE_WEIGHT = "example_weight"
WEIGHT = Metric("weight of the example", "", "smaller", decimals=3, low=0, high=1)
# The steps of an epoch that fp16's loss scaling has skipped.
SKIPPED = "skipped_steps"
ROUNDING = 1e-6  # by which a mean of values from 0 to 1 may leave the range


def quantity_of(column: str, metrics: Iterable[Metric]) -> Metric | None:
    """The metric in a column, or the quantity of every task: seconds, MiB, shift, share, weight."""
    if column.startswith(SHARES):
        return SHARE
    if column.startswith("feature_shift_"):
        return FEATURE_SHIFT
    if column == EXAMPLE_WEIGHT:
        return WEIGHT
    return metric_of(column, metrics) or QUANTITIES.get(column.rpartition("_")[2])


def appearance_columns(primary: str) -> list[str]:
    """The columns of train.appearance: the primary metric by kind, then the feature shift by kind.

    Measured after the last epoch alone, and nan before.
    """
    metrics = [f"test_{primary}_{kind}" for kind in APPEARANCES]
    return [*metrics, *(f"feature_shift_{kind}" for kind in APPEARANCES)]


def read_columns(text: str) -> Columns:
    """The columns of a CSV file of numbers, without an unfinished last row, as a power cut leaves.

    Raises ValueError for a row of another length than the header, for words, and for a name that
    comes twice.
    """
    whole_lines = text.split("\n")[:-1]
    names, *rows = [line.split(",") for line in whole_lines] or [[]]
    if not rows:
        return {}
    if {len(row) for row in rows} != {len(names)} or "epoch" not in names:
        raise ValueError("a row of another length than the header, or no epochs")
    if len({*names}) < len(names):
        raise ValueError("two columns of one name")
    columns = {}
    for name, column in zip(names, np.array(rows, dtype=float).T, strict=True):
        columns[name] = column.copy()
        if name in COUNTED:
            if not (np.abs(column) <= LARGEST_COUNT).all() or (column % 1 != 0).any():
                raise ValueError("a count that is no whole number")
            columns[name] = column.astype(np.int64)
    return columns


def check_metrics(columns: Columns, task: TaskRecord, config: Mapping[str, Any]) -> None:
    """Raises ValueError where metrics.csv lacks a column, or has a strange one or an odd value."""
    if not columns:
        return
    needed = ["epoch", "steps", "lr"]
    if task is not UNKNOWN_TASK:
        splits = ["train", "test"]
        if config["data"]["val_fraction"]:
            splits.append("val")
        needed += [f"{split}_{metric.name}" for split in splits for metric in task.metrics]
    needed += MEASURED
    primary = f"test_{task.primary.name}"
    at_the_end = appearance_columns(task.primary.name)
    by_statistics = {f"{primary}_{way}" for way in ("precise", "batch", "weighed")}
    allowed = {*needed, *at_the_end, *by_statistics, EXAMPLE_WEIGHT, SKIPPED}
    for name in needed:
        if name not in columns:
            raise ValueError(f"has no column {name}")
    for name in columns:
        is_known = name in allowed or name.startswith(SHARES)
        if not is_known and task is not UNKNOWN_TASK:
            raise ValueError(f"has a column {name} of which nothing is known")
    epochs, steps = columns["epoch"], columns["steps"]
    if (epochs != np.arange(1, len(epochs) + 1)).any() or (np.diff(steps, prepend=0) <= 0).any():
        raise ValueError("has epochs or steps that do not follow each other")
    for name, column in columns.items():
        measured = column[~np.isnan(column)] if name in at_the_end else column
        check_range(name, measured, quantity_of(name, task.metrics))


def check_steps(columns: Columns) -> None:
    """Raises ValueError where steps.csv has other columns or an odd value; a loss may be nan."""
    if not columns:
        return
    if tuple(columns) != STEP_COLUMNS:
        raise ValueError(f"has the columns {', '.join(columns)}, not {', '.join(STEP_COLUMNS)}")
    epochs, steps = columns["epoch"], columns["step"]
    if (np.diff(steps, prepend=-1) <= 0).any() or (np.diff(epochs, prepend=1) < 0).any():
        raise ValueError("has epochs or steps that do not follow each other")
    check_range("lr", columns["lr"], None)


def check_range(name: str, column: npt.NDArray[Any], metric: Metric | None) -> None:
    """Raises ValueError for a value that is not finite or out of the range of the metric.

    Without a metric: a count or a learning rate, from 0 on.
    """
    low, high = (0.0, None) if metric is None else (metric.low, metric.high)
    odd = ~np.isfinite(column)
    if low is not None:
        odd |= column < low - ROUNDING
    if high is not None:
        odd |= column > high + ROUNDING
    if odd.any():
        raise ValueError(f"has {name} {column[odd][0]:g}, out of its range")
