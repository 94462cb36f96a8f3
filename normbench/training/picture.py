"""What a trained network makes of a few test images, to look at."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from normbench.data.loader import DeviceLoader
from normbench.tasks.task import Task
from normbench.training.evaluations import outputs_of
from normbench.training.runtime import Runtime

NUM_IMAGES = 4


@torch.no_grad()
def picture_of(
    model: nn.Module, test: DeviceLoader, task: Task, runtime: Runtime
) -> NDArray[np.uint8] | None:
    """The task's picture of the first test images; None where a network makes no images."""
    if task.output_range is None:
        return None
    model.eval()
    batch = next(test.in_order(NUM_IMAGES))
    return task.picture(outputs_of(model, batch, runtime), batch)
