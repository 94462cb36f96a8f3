"""Compiling a model before its first step, so that no epoch's seconds contain the compiler's."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from normbench.data.loader import DeviceLoader
from normbench.training.engine import Trainer
from normbench.training.evaluate import EVAL_BATCH_SIZE


def compile_seconds(trainer: Trainer, evaluated: Iterable[DeviceLoader]) -> float:
    """Compiles the model for every batch shape of the run; returns the seconds, 0 where eager.

    The model's state and mode (training) are the same afterwards.
    """
    if not trainer.runtime.compile:
        return 0.0
    start = trainer.runtime.now()
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.model.train()
    for size in _batch_sizes(len(trainer.loader), trainer.batch_size):
        _forward(trainer, size).sum().backward()
    trainer.optimizer.zero_grad()
    trainer.model.eval()
    sizes: set[int] = set()
    for loader in evaluated:
        sizes |= _batch_sizes(len(loader), EVAL_BATCH_SIZE)
    with torch.no_grad():
        for size in sizes:
            _forward(trainer, size)
    trainer.model.load_state_dict(before)
    trainer.model.train()
    return trainer.runtime.now() - start


def _forward(trainer: Trainer, batch_size: int) -> Tensor:
    first_image = torch.zeros(batch_size, dtype=torch.int64, device=trainer.runtime.device)
    batch = trainer.loader.gather(first_image)
    with trainer.runtime.autocast():
        outputs: Tensor = trainer.model(batch["images"])
    return outputs.float()


def _batch_sizes(num_images: int, batch_size: int) -> set[int]:
    return {min(batch_size, num_images), num_images % batch_size} - {0}
