"""Compiling a model ahead of its first step, so that no epoch's time is that of the compiler."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from normbench.data.loader import DeviceLoader
from normbench.train.engine import EVAL_BATCH_SIZE, Trainer


def compile_seconds(trainer: Trainer, evaluated: Iterable[DeviceLoader]) -> float:
    """Seconds it takes to compile the model for every batch shape it will meet; it is left as it was, in training."""
    if not trainer.runtime.compile:
        return 0.0
    start = trainer.runtime.now()
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.model.train()
    with trainer.runtime.kernels():
        for size in _batch_sizes(len(trainer.loader), trainer.batch_size):
            _forward(trainer, size).sum().backward()
    trainer.optimizer.zero_grad()
    trainer.model.eval()
    with torch.no_grad():
        for size in {
            size for loader in evaluated for size in _batch_sizes(len(loader), EVAL_BATCH_SIZE)
        }:
            _forward(trainer, size)
    trainer.model.load_state_dict(before)
    trainer.model.train()
    return trainer.runtime.now() - start


def _forward(trainer: Trainer, batch_size: int) -> Tensor:
    indices = torch.zeros(batch_size, dtype=torch.int64, device=trainer.runtime.device)
    images = trainer.loader.gather(indices)["images"]
    with trainer.runtime.autocast():
        logits: Tensor = trainer.model(images)
    return logits.float()


def _batch_sizes(num_images: int, batch_size: int) -> set[int]:
    """The full batch and the last short one."""
    return {min(batch_size, num_images), num_images % batch_size} - {0}
