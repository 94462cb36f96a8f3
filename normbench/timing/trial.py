"""A configuration on random images, to time its steps: no data are needed, and none of its numbers mean anything."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from normbench.config.schema import RunConfig
from normbench.data import Source, Split
from normbench.timing.race import WARM_UP, Work
from normbench.train.build import build_trainer
from normbench.train.compilation import compile_seconds
from normbench.train.engine import Trainer
from normbench.train.runtime import Runtime

NUM_BATCHES = 4  # of different images, in turn


@dataclass(frozen=True)
class Trial:
    """A trainer past its warm-up; a call of take_step is one of its steps. seconds_compiling: 0 where it is eager."""

    trainer: Trainer
    take_step: Work
    seconds_compiling: float


def trial(config: RunConfig, source: Source, runtime: Runtime) -> Trial:
    """The configuration ready to take full steps, over and over on the same few batches."""
    images_per_step = config.batch_size * config.train.accumulate
    images = random_images(source, NUM_BATCHES * images_per_step)
    trainer = build_trainer(config, images, len(source.classes), runtime)
    seconds_compiling = compile_seconds(trainer, ())
    groups = itertools.cycle(trainer.loader.shuffled(0, trainer.seed).split(images_per_step))
    lr = trainer.lr_at(0)

    def take_step() -> None:
        trainer.take_step(next(groups), lr)

    for _ in range(WARM_UP):
        take_step()
    return Trial(trainer, take_step, seconds_compiling)


def random_images(source: Source, number: int) -> Split:
    """So many images of the size that the source has, with labels of its classes."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (number, *source.image_shape), dtype=np.uint8)
    labels = generator.integers(0, len(source.classes), number)
    return Split.of(images=images, labels=labels)
