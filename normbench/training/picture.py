"""What a trained network makes of a few test images, to look at."""

from __future__ import annotations

import torch

from normbench.data.loader import DeviceLoader
from normbench.perceptual.pictures import png_of
from normbench.runs.rundir import RunDir
from normbench.training.engine import Trainer
from normbench.training.evaluations import outputs_of

NUM_IMAGES = 4


@torch.no_grad()
def save_picture(run: RunDir, trainer: Trainer, test: DeviceLoader) -> None:
    """Writes the task's picture of the first test images; none where a network makes no images."""
    if trainer.task.output_range is None:
        return
    trainer.model.eval()
    batch = next(test.in_order(NUM_IMAGES))
    made = outputs_of(trainer.model, batch, trainer.runtime)
    picture = trainer.task.picture(made, batch)
    if picture is not None:
        run.save_picture(png_of(picture))
