"""Figures of runs: functions of frames that return a matplotlib Figure, by the names that `normbench plot` takes."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from normbench.analysis.figures.curves import accuracy, loss
from normbench.analysis.figures.settings import batch_size, learning_rate, time

FIGURES: dict[str, Callable[..., Figure]] = {
    "loss": loss,
    "accuracy": accuracy,
    "batch-size": batch_size,
    "time": time,
    "learning-rate": learning_rate,
}
