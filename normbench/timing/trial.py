"""A configuration ready to be timed: its trainer takes steps on random images, without any data."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from normbench.config.schema import RunConfig
from normbench.data import Source, Split
from normbench.timing.race import WARM_UP_CALLS, Work
from normbench.training.build import build_trainer, task_of
from normbench.training.compilation import compile_seconds
from normbench.training.engine import Trainer
from normbench.training.runtime import Runtime

# Batches of different images, taken in turn, as in training.
NUM_BATCHES = 4


@dataclass(frozen=True)
class Trial:
    """A trainer past its warm-up, a function that takes one step, the seconds of compilation."""

    trainer: Trainer
    take_step: Work
    seconds_compiling: float


def trial(config: RunConfig, source: Source, runtime: Runtime) -> Trial:
    """The configuration ready to take full steps, over and over on the same few batches."""
    task = task_of(config, source)
    images_per_step = config.batch_size * config.train.accumulate
    number = NUM_BATCHES * images_per_step
    split = Split(task.random_arrays(number, np.random.default_rng(0)))
    trainer = build_trainer(config, task, split, runtime)
    seconds_compiling = compile_seconds(trainer, ())
    order = trainer.loader.shuffled(0, trainer.seed)
    groups = itertools.cycle(order.split(images_per_step))
    lr = trainer.lr_at(0)

    def take_step() -> None:
        trainer.take_step(next(groups), lr)

    for _ in range(WARM_UP_CALLS):
        take_step()
    return Trial(trainer, take_step, seconds_compiling)
