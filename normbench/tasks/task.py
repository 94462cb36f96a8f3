"""The loss and metrics of a training. The trainer asks a task for them, tables for their units.

A task is a registered function `(source, *, options) -> Task` in a file of its own. Nothing else in
training, rows of runs, sweeps or reports knows whether images have classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from normbench.data.loader import Batch
from normbench.data.source import Split
from normbench.registry import Registry
from normbench.tasks.metric import Metric

__all__ = ["Batch", "Task", "tasks"]


class Task(Protocol):
    """The loss and metrics of a training.

    metrics: in the order of the columns of metrics.csv; the first is the loss, named "loss".
    primary: the metric that tables, figures and verdicts are about; one of `metrics`.
    image_shape: (3, height, width) of the images that the network takes.
    output_shape: what the network makes of an image: (classes,), or (3, height, width). The first
        number is given to the network when it is built.
    least_batch: the fewest images that a batch of training needs.
    output_range: the lowest and highest pixel of images that the network makes, which the images
        that it takes must have, too; None for a network that makes no images.
    """

    metrics: tuple[Metric, ...]
    primary: Metric
    image_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    output_range: tuple[float, float] | None
    least_batch: int

    def prepare(self, split: Split) -> Split:
        """The split with its images as the network takes them, uint8 (n, *image_shape)."""

    def join(self, network: nn.Module) -> None:
        """Gives a new network what it needs of the task besides images.

        Raises NormbenchError for a network that cannot be trained by the task.
        """

    def assess(
        self, outputs: Tensor, batch: Batch, *, training: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss over the batch, a scalar, of float32 outputs (n, *output_shape).

        With it every other metric, by name, summed over the images of the batch; scalars.
        training: whether to include what only training has, such as label smoothing.
        """

    def correct(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        """Which images count for the primary metric, booleans (n,).

        None for a metric that is no share of the images.
        """

    def picture(self, outputs: Tensor, batch: Batch) -> NDArray[np.uint8] | None:
        """What the network makes of these images, to look at: (height, width, 3).

        None for a network that makes no images.
        """

    def random_arrays(self, number: int, generator: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Random images and targets with the data's shapes and types, to time steps."""


Options = Mapping[str, Any]


class TaskRegistry(Registry[Task]):
    """The tasks by name; entries take the data source, and their own options."""

    def __init__(self) -> None:
        super().__init__("task")
        self._complete: dict[str, Callable[[Options], dict[str, Any]]] = {}

    def register(
        self,
        name: str,
        *,
        title: str,
        complete: Callable[[Options], dict[str, Any]] | None = None,
    ) -> Callable[[Callable[..., Task]], Callable[..., Task]]:
        """As Registry.register. complete: adds what decides a run besides the options given.

        Of a file that an option names, as OPTION_content, it is the hash of what the file holds.
        """
        if complete is not None:
            self._complete[name] = complete
        return super().register(name, title=title)

    def check(self, name: str, given: Options) -> dict[str, Any]:
        """As Registry.check, and completes the options."""
        options = super().check(name, given)
        complete = self._complete.get(name)
        return options if complete is None else complete(options)


tasks = TaskRegistry()
