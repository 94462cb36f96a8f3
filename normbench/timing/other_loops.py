"""The training loops that people would write or pick instead of normbench's.

Each trains NormResNet with Adam for ever, on the same random images of CIFAR-10's size, on the CPU,
and calls `on_step` after every step. Norms are named as in NORMS.
"""

from __future__ import annotations

import itertools
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from normbench.training.runtime import has_native_bf16

# The size of CIFAR-10, so that work done once an epoch weighs as much as in a real run.
NUM_IMAGES = 50_000
OnStep = Callable[[], None]

WIDTHS = (64, 128, 256, 512)

# The source comparison's norms: ln as one group, four groups in gn, no scale and shift in in.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "bn": nn.BatchNorm2d,
    "ln": lambda width: nn.GroupNorm(1, width),
    "in": nn.InstanceNorm2d,
    "gn": lambda width: nn.GroupNorm(4, width),
}


def tutorial(norm: str, batch_size: int, on_step: OnStep) -> None:
    """The loop of torch's CIFAR-10 tutorial: PIL images, a transform of each, a DataLoader."""
    loader = DataLoader(Pictures(), batch_size=batch_size, shuffle=True)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    train_plainly(norm, batches, on_step)


def in_memory(norm: str, batch_size: int, on_step: OnStep) -> None:
    """The tutorial's steps on float tensors, normalized beforehand."""
    images, labels = (torch.from_numpy(array) for array in random_images())
    # 614 MB as float32, where normbench keeps uint8 and normalizes batch by batch.
    images = images.float().div_(255).sub_(0.5).div_(0.5)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for chosen in torch.randperm(len(labels)).split(batch_size):
                yield images[chosen], labels[chosen]

    train_plainly(norm, batches(), on_step)


def train_plainly(norm: str, batches: Iterable[tuple[Tensor, Tensor]], on_step: OnStep) -> None:
    """The tutorial's steps, with Adam in place of SGD."""
    model = plain_normresnet(norm)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    running_loss = 0.0
    for images, labels in batches:
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        # The tutorial prints a running loss, so every step reads a value.
        running_loss += loss.item()
        on_step()


def by_hand(norm: str, batch_size: int, on_step: OnStep) -> None:
    """A short loop written for speed: channels_last, bf16 where native, compiled, a fused Adam.

    Images lie normalized in memory; of an epoch's last batch, which may be short, nothing is used.
    """
    images, labels = (torch.from_numpy(array) for array in random_images())
    is_native = has_native_bf16("cpu")
    images = images.to(torch.bfloat16 if is_native else torch.float32).div_(255).sub_(0.5).div_(0.5)
    images = images.contiguous(memory_format=torch.channels_last)
    model = plain_normresnet(norm).to(memory_format=torch.channels_last)
    model.compile(dynamic=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    whole = max(len(labels) // batch_size, 1) * batch_size
    while True:
        for chosen in torch.randperm(len(labels))[:whole].split(batch_size):
            with torch.autocast("cpu", torch.bfloat16, enabled=is_native):
                loss = cross_entropy(model(images[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            on_step()


def keras(norm: str, batch_size: int, on_step: OnStep) -> None:
    """Keras 3 on torch: `fit` with its defaults, on images normalized in memory."""
    os.environ["KERAS_BACKEND"] = "torch"  # read when the package is imported
    import keras

    images, labels = random_images()
    pixels = (images.astype(np.float32) / 255 - 0.5) / 0.5
    with keras.device("cpu"):
        model = keras_normresnet(norm)
        model.compile(
            optimizer=keras.optimizers.Adam(1e-3),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        told = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: on_step())
        # More epochs than anybody waits for.
        model.fit(
            pixels, labels, batch_size=batch_size, epochs=1_000_000, verbose=0, callbacks=[told]
        )


def keras_normresnet(norm: str) -> Any:
    """NormResNet of Keras's layers: images (n, 3, 32, 32) to logits (n, 10)."""
    from keras import Sequential, layers

    # torch's layout and defaults; Keras's momentum is the share that is kept.
    made = {
        "bn": partial(layers.BatchNormalization, axis=1, momentum=0.9, epsilon=1e-5),
        "ln": partial(layers.GroupNormalization, groups=1, axis=1, epsilon=1e-5),
        "in": partial(
            layers.GroupNormalization, groups=-1, axis=1, epsilon=1e-5, center=False, scale=False
        ),
        "gn": partial(layers.GroupNormalization, groups=4, axis=1, epsilon=1e-5),
    }
    model = Sequential([layers.Input((3, 32, 32))])
    stride = 1
    for width in WIDTHS:
        # Keras pads maps of an even size on one side alone where the stride is 2.
        model.add(layers.ZeroPadding2D(1, data_format="channels_first"))
        model.add(layers.Conv2D(width, 3, stride, use_bias=False, data_format="channels_first"))
        model.add(made[norm]())
        model.add(layers.ReLU())
        stride = 2
    model.add(layers.GlobalAveragePooling2D(data_format="channels_first"))
    model.add(layers.Dense(10))
    return model


def lightning(norm: str, batch_size: int, on_step: OnStep) -> None:
    """The tutorial's network and data under a Lightning Trainer with logs and checkpoints off."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import LambdaCallback

    # Lightning warns that more workers would load faster; on a CPU workers compete with training.
    warnings.simplefilter("ignore")
    # Lightning sets the level when it is imported.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Classifier(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = plain_normresnet(norm)

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            images, labels = batch
            return cross_entropy(self.model(images), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        callbacks=[LambdaCallback(on_train_batch_end=lambda *_: on_step())],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(), DataLoader(Pictures(), batch_size=batch_size, shuffle=True))


def plain_normresnet(norm: str) -> nn.Sequential:
    """NormResNet of torch's own layers: images (n, 3, 32, 32) to logits (n, 10)."""
    layers: list[nn.Module] = []
    channels, stride = 3, 1
    for width in WIDTHS:
        conv = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        layers += [conv, NORMS[norm](width), nn.ReLU()]
        channels, stride = width, 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class Pictures(Dataset[tuple[Tensor, int]]):
    """The random images in the manner of torchvision.datasets.CIFAR10: PIL images, transformed."""

    def __init__(self) -> None:
        from PIL import Image
        from torchvision import transforms

        images, self.labels = random_images()
        # A view, as in torchvision: PIL reads rows of pixels.
        self.images = images.transpose(0, 2, 3, 1)
        self.to_picture = Image.fromarray
        normalize = transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.transform = transforms.Compose([transforms.ToTensor(), normalize])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.to_picture(self.images[index])), int(self.labels[index])


def random_images() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, 3, 32, 32) and labels (n,), equal in every process."""
    draw = np.random.default_rng(0)
    images = draw.integers(256, size=(NUM_IMAGES, 3, 32, 32), dtype=np.uint8)
    return images, draw.integers(10, size=NUM_IMAGES)
