"""The loss and metrics of a training. The trainer asks a task for them, tables for their units.

A task is a registered function `(source, *, options) -> Task` in a file of its own. Nothing else in
training, rows of runs, sweeps or reports knows whether images have classes.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from normbench.data.loader import Batch
from normbench.registry import Registry
from normbench.tasks.metric import Metric

__all__ = ["Batch", "Task", "tasks"]


class Task(Protocol):
    """The loss and metrics of a training.

    metrics: in the order of the columns of metrics.csv; the first is the loss, named "loss".
    primary: the metric that tables, figures and verdicts are about; one of `metrics`.
    num_outputs: the numbers that the network gives for an image.
    """

    metrics: tuple[Metric, ...]
    primary: Metric
    num_outputs: int

    def loss(self, outputs: Tensor, batch: Batch, *, training: bool) -> Tensor:
        """The mean loss over the batch, a scalar, of float32 outputs (n, num_outputs).

        training: whether to include what only training has, such as label smoothing.
        """

    def correct(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        """Which images count for the primary metric, booleans (n,).

        None for a metric that is no share of the images.
        """

    def sums(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Every metric but the loss, by name, summed over the images of the batch; scalars."""

    def random_arrays(self, number: int, generator: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Random images and targets with the data's shapes and types, to time steps."""


# Entries take the data source, and their own options.
tasks: Registry[Task] = Registry("task")
