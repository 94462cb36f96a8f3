"""Classification of images, the task of the source comparison."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normbench.data.source import Source, Split
from normbench.tasks.metric import Metric
from normbench.tasks.task import Batch, tasks

LOSS = Metric("loss", unit="nats", better="smaller", low=0.0)
ACCURACY = Metric(
    "accuracy",
    unit="%",
    better="larger",
    scale=100.0,
    decimals=1,
    difference_unit="points",
    low=0.0,
    high=1.0,
)


class Classification:
    """Cross-entropy of logits (n, classes) and labels; accuracy, the fraction of correct images."""

    metrics: tuple[Metric, ...] = (LOSS, ACCURACY)
    primary = ACCURACY
    output_range: tuple[float, float] | None = None
    least_batch = 1

    def __init__(self, source: Source, label_smoothing: float) -> None:
        self.image_shape: tuple[int, ...] = source.image_shape
        self.output_shape: tuple[int, ...] = (len(source.classes),)
        self.label_smoothing = label_smoothing

    def prepare(self, split: Split) -> Split:
        """The images as they are."""
        return split

    def join(self, network: nn.Module) -> None:
        """A classifier needs images alone."""

    def assess(
        self, outputs: Tensor, batch: Batch, *, training: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy in nats, and the number of images that are classified correctly.

        Label smoothing counts in training only.
        """
        smoothing = self.label_smoothing if training else 0.0
        loss = cross_entropy(outputs, batch["labels"], label_smoothing=smoothing)
        return loss, {"accuracy": self.correct(outputs, batch).sum()}

    def correct(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The images whose largest logit is that of their label, booleans (n,)."""
        return outputs.argmax(1) == batch["labels"]

    def picture(self, outputs: Tensor, batch: Batch) -> None:
        """Logits are nothing to look at."""

    def random_arrays(self, number: int, generator: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Images of uniform noise with labels of all classes."""
        images = generator.integers(0, 256, (number, *self.image_shape), dtype=np.uint8)
        return {"images": images, "labels": generator.integers(0, self.output_shape[0], number)}


@tasks.register("classification", title="Classification")
def classification(
    source: Source, *, label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
) -> Classification:
    """Cross-entropy and accuracy over the classes of the data.

    label_smoothing: share of the target spread over all classes (arXiv:1512.00567, section 7).
    """
    return Classification(source, label_smoothing)
