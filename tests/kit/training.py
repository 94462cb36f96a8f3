"""Trainers of a network of two convolutions on random images: hundreds of steps take a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kit.tiny import tiny
from normbench.config.compose import compose
from normbench.data.augment import FlipAndCrop
from normbench.data.loader import DeviceLoader
from normbench.data.source import Source, Split
from normbench.models import Layers, materialize, models
from normbench.norms import norms
from normbench.tasks.classification import Classification
from normbench.training.engine import StepLog, Trainer
from normbench.training.evaluate import evaluate
from normbench.training.optim import optimizers, parameter_groups, schedule
from normbench.training.run import Outcome, execute
from normbench.training.runtime import Runtime

CPU = torch.device("cpu")
PLAIN = Runtime(CPU, "fp32", channels_last=False, compile=False)
HALF = (0.5, 0.5, 0.5)
SEED = 3


def no_images() -> tuple[Split, Split]:
    raise AssertionError("nothing is decoded here")


SOURCE = Source("random", "random", tuple("abcdefghij"), (3, 8, 8), 50, 20, no_images)


def task_of(label_smoothing: float = 0.0) -> Classification:
    return Classification(SOURCE, label_smoothing)


def split_of(num_images: int = 50, seed: int = 0, size: int = 8) -> Split:
    generator = np.random.default_rng(seed)
    # Images of different brightness: the statistics of a batch depend on the images in the batch.
    brightness = generator.uniform(0.1, 1, (num_images, 3, 1, 1))
    images = (generator.integers(0, 256, (num_images, 3, size, size)) * brightness).astype(np.uint8)
    return Split.of(images=images, labels=generator.integers(0, 10, num_images))


def loader_of(split: Split, *, augment: bool = False, channels_last: bool = False) -> DeviceLoader:
    augmentation = FlipAndCrop(len(split), SEED, CPU) if augment else None
    return DeviceLoader(
        split, mean=HALF, std=HALF, device=CPU, channels_last=channels_last, augment=augmentation
    )


def model_of(norm: str, widths: tuple[int, ...] = (4, 8), **options: Any) -> nn.Module:
    layers = Layers(norms.build(norm, options=options), SEED)
    model = models.build("normresnet", layers, 10, options={"widths": widths})
    return materialize(model, SOURCE.image_shape)


def in_double(model: nn.Module) -> nn.Module:
    """The model in float64, of float32 images: rounding does not grow at the kinks of a ReLU."""
    model.register_forward_pre_hook(lambda _, images: (images[0].double(),))
    return model.double()


def trainer_of(
    norm: str = "bn",
    optim: str = "sgd",
    *,
    runtime: Runtime = PLAIN,
    split: Split | None = None,
    augment: bool = False,
    label_smoothing: float = 0.0,
    **given: Any,
) -> Trainer:
    """Three epochs of 7 steps, the last with 2 images; every step is logged."""
    model = given.pop("model", None) or model_of(norm, given.pop("widths", (4, 8)))
    model = runtime.prepare(model)
    settings: dict[str, Any] = {
        "lr": 0.05,
        "schedule": schedule("constant", 0.0),
        "batch_size": 8,
        "epochs": 3,
        "seed": SEED,
        "log_every": 1,
    }
    settings |= given
    return Trainer(
        task=task_of(label_smoothing),
        model=model,
        optimizer=optimizers.build(optim)(parameter_groups(model), settings["lr"]),
        loader=loader_of(split or split_of(), augment=augment, channels_last=runtime.channels_last),
        runtime=runtime,
        **settings,
    )


def run_in(folder: Path, *settings: str, restart: bool = False) -> Outcome:
    """A tiny run from configuration to files; says nothing."""
    flags = {"system.runs_dir": str(folder), "system.progress": "none"}
    return execute(compose(tiny(*settings), flags), restart=restart)


def never() -> bool:
    return False


def figures(trainer: Trainer) -> list[float]:
    """Every step's loss, the means of each epoch, and the metrics of an evaluation."""
    found: list[float] = []

    def on_step(log: StepLog | None) -> None:
        assert log is not None
        found.append(log.loss)

    while not trainer.is_done:
        result = trainer.train_epoch(on_step, never)
        found += [*result.means.values(), result.num_images]
    metrics = evaluate(trainer.model, trainer.loader, trainer.task, trainer.runtime).means
    return [*found, *metrics.values()]


def floats_of(split: Split) -> tuple[Tensor, Tensor]:
    """Images normalized as the loader should, and their labels."""
    images = (torch.from_numpy(split["images"]).float() / 255 - 0.5) / 0.5
    return images, torch.from_numpy(split["labels"])
