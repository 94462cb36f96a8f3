"""Training loops timed in turns: normbench's, a tutorial's, images held in memory, Lightning's.

Every loop trains NormResNet with Adam on the same random images of CIFAR-10's size, on the CPU.
`scripts/bench_training.py` prints the comparison.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from normbench.config.compose import compose
from normbench.data import Split
from normbench.errors import RunFailure
from normbench.timing.race import race
from normbench.timing.repeats import in_order_of
from normbench.training.build import build_trainer, runtime_of, task_of
from normbench.training.resolve import resolve

# The size of CIFAR-10, so that work done once an epoch weighs as much as in a real run.
NUM_IMAGES = 50_000
# Of a turn: long beside a message to a process, short beside changes in the machine's load.
LEAST_SECONDS = 1.5

OnStep = Callable[[], None]
# Trains a norm at a batch size for ever, and calls OnStep after every step.
Loop = Callable[[str, int, OnStep], None]

# The source comparison's norms: ln as one group, four groups in gn, no scale and shift in in.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "bn": nn.BatchNorm2d,
    "ln": lambda width: nn.GroupNorm(1, width),
    "in": nn.InstanceNorm2d,
    "gn": lambda width: nn.GroupNorm(4, width),
}


def compare(norm: str, batch_size: int, rounds: int, repeat: int = 1) -> Iterator[dict[str, float]]:
    """Seconds of a step in each loop, round by round, after an uncounted warm-up.

    Each loop has a new process. repeat: the number of this comparison among those that repeat it,
    which decides the order of the loops. Raises RunFailure where the process of a loop ends early.
    """
    with ExitStack() as stack:
        processes = {}
        for name, loop in in_order_of(repeat, [*loops().items()]):
            process = LoopProcess(name, loop, norm, batch_size)
            processes[name] = stack.enter_context(closing(process))
        # The clock is read in the process that works.
        yield from race(processes, LoopProcess.take, rounds=rounds, least_seconds=LEAST_SECONDS)


def loops() -> dict[str, Loop]:
    """The loops by name; Lightning's only where the package is installed."""
    found: dict[str, Loop] = {"tutorial": tutorial, "in memory": in_memory}
    if importlib.util.find_spec("lightning") is not None:
        found["lightning"] = lightning
    found["normbench"] = normbench
    found["normbench runtime=fast"] = partial(normbench, settings=("runtime=fast",))
    return found


class LoopProcess:
    """A training loop in a separate process, taking steps on request."""

    def __init__(self, name: str, *arguments: Any) -> None:
        # normbench tunes the allocator of its process (`keep_freed_memory`): in a shared process,
        # or a forked one, every loop would gain a sixth at batch 64.
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=serve, args=(far_end, *arguments), daemon=True)
        self.process.start()
        # Without a second holder of the far end, the end of the process closes the pipe.
        far_end.close()

    def take(self, steps: int) -> float:
        """Takes steps and returns their seconds. Raises RunFailure where the process has ended."""
        try:
            self.pipe.send(steps)
            return float(self.pipe.recv())
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            raise RunFailure(f"the loop '{self.name}' ended with exit code {code}") from None

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def serve(pipe: Connection[Any, Any], loop: Loop, norm: str, batch_size: int) -> None:
    """Runs a loop step by step: receives numbers of steps, sends their seconds, ends with the pipe.

    The first answer includes the construction of network and data.
    """

    def before_each_step() -> Iterator[None]:
        while True:
            steps = pipe.recv()
            start = time.perf_counter()
            for _ in range(steps):
                yield
            pipe.send(time.perf_counter() - start)

    turns = before_each_step()
    with suppress(EOFError):
        next(turns)
        loop(norm, batch_size, lambda: next(turns))


def normbench(norm: str, batch_size: int, on_step: OnStep, settings: Sequence[str] = ()) -> None:
    """The epochs of `normbench train` under these settings, without evaluations and files."""
    # More epochs than anybody waits for: the loop ends with its process.
    study = [f"norm={norm}", f"batch_size={batch_size}", "epochs=1000000", "data=synthetic"]
    config, source = resolve(compose([*study, "runtime.device=cpu", *settings]))
    images, labels = random_images()
    split = Split.of(images=images, labels=labels)
    with runtime_of(config) as runtime:
        trainer = build_trainer(config, task_of(config, source), split, runtime)
        while True:
            trainer.train_epoch(lambda log: on_step(), lambda: False)


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
    for width in (64, 128, 256, 512):
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
