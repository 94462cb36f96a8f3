"""The training loops that bench_training.py compares, each in a process of its own, which steps when it is told to.

    python scripts/training_loops.py LOOP NORM BATCH_SIZE THREADS [KEY=VALUE ...]

A line of standard input is an order: a number of steps, or `evaluate`. Each is answered by a line of JSON with its
seconds and the process's peak memory; so is the first step, which a loop takes unasked. The end of the input ends it.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

NUM_IMAGES = 50_000  # as CIFAR-10 has: what a loop does once an epoch then weighs as it does there
NUM_EVALUATED = 1000
MATRIX_SIDE = 2048
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "bn": nn.BatchNorm2d,
    "ln": lambda width: nn.GroupNorm(1, width),
    "in": nn.InstanceNorm2d,
    "gn": lambda width: nn.GroupNorm(4, width),
}


@dataclass(frozen=True)
class Task:
    """What a loop is to train, and the settings of normbench or the number type of the matrix product."""

    norm: str
    batch_size: int
    settings: tuple[str, ...]


class Pacer:
    """Called after every step: answers when the steps that were asked for are done, and waits for the next order."""

    def __init__(self, orders: TextIO, answers: TextIO) -> None:
        self.orders, self.answers = orders, answers
        self.evaluate: Callable[[], object] = lambda: None
        self.steps_left = 1
        self.start = time.perf_counter()

    def __call__(self, *_: object) -> None:
        """One step is done."""
        self.steps_left -= 1
        if self.steps_left > 0:
            return
        self._answer()
        while (order := self.orders.readline().strip()) == "evaluate":
            self.start = time.perf_counter()
            self.evaluate()
            self._answer()
        if not order:
            sys.exit()
        self.steps_left = int(order)
        self.start = time.perf_counter()

    def _answer(self) -> None:
        seconds = time.perf_counter() - self.start
        unit = 1 if sys.platform == "darwin" else 1024
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
        print(json.dumps({"seconds": seconds, "peak_mib": peak_mib}), file=self.answers, flush=True)


def plain_normresnet(norm: str) -> nn.Sequential:
    """NormResNet as a tutorial writes it, of torch's own layers."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 128, 256, 512):
        stride = 1 if channels == 3 else 2
        layers += [
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            NORMS[norm](width),
            nn.ReLU(),
        ]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def random_images() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, 3, 32, 32) and labels (n,), the same for every loop."""
    draw = np.random.default_rng(0)
    return draw.integers(256, size=(NUM_IMAGES, 3, 32, 32), dtype=np.uint8), draw.integers(
        10, size=NUM_IMAGES
    )


class Pictures(Dataset[tuple[Tensor, int]]):
    """The random images as torchvision.datasets.CIFAR10 has its own: one array, a PIL image of each, a transform."""

    def __init__(self) -> None:
        from PIL import Image
        from torchvision import transforms

        images, self.labels = random_images()
        self.images = images.transpose(0, 2, 3, 1)  # a view, as there
        self.picture = Image.fromarray
        normalize = transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.transform = transforms.Compose([transforms.ToTensor(), normalize])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.picture(self.images[index])), int(self.labels[index])


def picture_batches(batch_size: int) -> DataLoader[tuple[Tensor, int]]:
    """The loader of the tutorial: shuffled, in the training process itself."""
    return DataLoader(Pictures(), batch_size=batch_size, shuffle=True, num_workers=0)


def source(task: Task, pacer: Pacer) -> None:
    """The tutorial under test."""
    loader = picture_batches(task.batch_size)
    train_plainly(task.norm, lambda: loader, pacer)


def in_memory(task: Task, pacer: Pacer) -> None:
    """The tutorial's steps on images normalized beforehand."""
    images, labels = (torch.from_numpy(array) for array in random_images())
    images = images.float().div_(255).sub_(0.5).div_(0.5)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for indices in torch.randperm(len(labels)).split(task.batch_size):
            yield images[indices], labels[indices]

    train_plainly(task.norm, batches, pacer)


def train_plainly(norm: str, batches: Callable[[], Iterable[Any]], pacer: Pacer) -> None:
    """The tutorial's steps, epoch after epoch."""
    model = plain_normresnet(norm)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in itertools.count():
        running_loss = 0.0
        for images, labels in batches():
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            pacer()


def lightning(task: Task, pacer: Pacer) -> None:
    """The tutorial's network and data under a Lightning Trainer, with all that it could do besides turned off."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")  # that more workers would load faster
    from lightning.pytorch import Callback, LightningModule, Trainer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # which devices it has found

    class Classifier(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = plain_normresnet(task.norm)

        def training_step(self, batch: Any, index: int) -> Tensor:
            images, labels = batch
            return cross_entropy(self.model(images), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    class Paced(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            pacer()

    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        callbacks=[Paced()],
        enable_checkpointing=False,
        **silent,
    )
    trainer.fit(Classifier(), picture_batches(task.batch_size))


def normbench(task: Task, pacer: Pacer) -> None:
    """What `normbench train` does in its epochs, under its default settings or those of the task."""
    from normbench.config.compose import compose
    from normbench.data import Split
    from normbench.train.build import build_loader, build_trainer, runtime_of
    from normbench.train.engine import evaluate

    images, labels = random_images()
    settings = [
        f"norm={task.norm}",
        f"batch_size={task.batch_size}",
        "epochs=1000000",
        "runtime.device=cpu",
    ]
    config = compose([*settings, *task.settings])
    with runtime_of(config) as runtime:
        split = Split.of(images=images, labels=labels)
        trainer = build_trainer(config, split, 10, runtime)
        tested = build_loader(split.take(np.arange(NUM_EVALUATED)), config, runtime)

        def evaluate_and_go_on() -> None:
            evaluate(trainer.model, tested, runtime)
            trainer.model.train()

        pacer.evaluate = evaluate_and_go_on
        while True:
            trainer.train_epoch(pacer, lambda: False)


def matrix_product(task: Task, pacer: Pacer) -> None:
    """Products of two square matrices of the task's number type: no convolution multiplies faster."""
    a, b = torch.rand(2, MATRIX_SIDE, MATRIX_SIDE).to(getattr(torch, task.settings[0]))
    product = torch.empty_like(a)
    while True:
        torch.mm(a, b, out=product)
        pacer()


LOOPS: dict[str, Callable[[Task, Pacer], None]] = {
    "source": source,
    "in-memory": in_memory,
    "lightning": lightning,
    "normbench": normbench,
    "matrix product": matrix_product,
}


def main() -> None:
    """Runs one loop. Its answers have standard output to themselves: whatever a library prints goes to the errors."""
    loop, norm, batch_size, threads, *settings = sys.argv[1:]
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(int(threads))
    LOOPS[loop](Task(norm, int(batch_size), tuple(settings)), Pacer(sys.stdin, answers))


if __name__ == "__main__":
    main()
