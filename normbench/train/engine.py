"""The training loop itself: steps, an epoch, an evaluation. It knows tensors and numbers, no files and no config."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normbench.data.loader import DeviceLoader
from normbench.train.capture import Captured
from normbench.train.optim import Schedule, make_capturable, set_lr
from normbench.train.runtime import Runtime

EVAL_BATCH_SIZE = 250


class Diverged(Exception):
    """The loss is no longer a finite number."""


class Stopped(Exception):
    """Somebody asked the run to stop; the trainer stands between two steps and can be saved."""


class Metrics:
    """Loss and accuracy as sums and a count, kept on the device and divided when somebody asks."""

    def __init__(self, device: torch.device) -> None:
        self.loss_sum = torch.zeros((), dtype=exact_dtype(device), device=device)
        self.num_correct = torch.zeros((), dtype=torch.int64, device=device)
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: its mean loss, logits (n, classes) and labels (n,)."""
        self.loss_sum.add_(loss.detach(), alpha=len(labels))
        self.num_correct.add_((logits.detach().argmax(1) == labels).sum())
        self.count.add_(len(labels))

    def read(self, *more: Tensor) -> list[float]:
        """Mean loss, accuracy, and the values of `more` scalars; waits for the device once."""
        scalars = [scalar.to(self.loss_sum.dtype) for scalar in (*vars(self).values(), *more)]
        loss_sum, num_correct, count, *values = torch.stack(scalars).tolist()
        return [loss_sum / count, num_correct / count, *values]

    def reset(self) -> None:
        """To nothing, where it lies: a captured step knows it by its place."""
        for total in (self.loss_sum, self.num_correct, self.count):
            total.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Plain values to save."""
        return {name: total.item() for name, total in vars(self).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        for name, total in vars(self).items():
            total.fill_(state[name])


@dataclass(frozen=True)
class StepLog:
    """What is logged of a step: `step` counts from 0 over the run, `epoch` from 1; loss is that step's own.

    mean_loss and accuracy are those of the epoch so far.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    mean_loss: float
    accuracy: float


@dataclass(frozen=True)
class EpochResult:
    """An epoch's training: mean loss and accuracy over its images in training mode, and its seconds."""

    loss: float
    accuracy: float
    seconds: float
    num_images: int


def count_steps(num_images: int, images_per_step: int, epochs: int, max_steps: int | None) -> int:
    """The steps of a whole run; the last one of an epoch may be short of images."""
    return min(epochs * math.ceil(num_images / images_per_step), max_steps or sys.maxsize)


@dataclass
class Trainer:
    """A model on its way through the epochs; its state can be saved between any two steps.

    batch_size is the number of images whose statistics are taken together, `accumulate` how many such batches make one
    step; max_steps ends the run early. The learning rate of a step is lr * schedule((step + 1/2) / num_steps).
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loader: DeviceLoader
    runtime: Runtime
    lr: float
    schedule: Schedule
    batch_size: int
    epochs: int
    seed: int
    accumulate: int = 1
    label_smoothing: float = 0.0
    max_steps: int | None = None
    log_every: int = 100

    epoch: int = field(default=0, init=False)  # epochs finished
    step: int = field(default=0, init=False)  # steps taken over the whole run
    seconds: float = field(default=0.0, init=False)  # spent in the epoch under way

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.runtime.device)
        self.steps_per_epoch = math.ceil(len(self.loader) / (self.batch_size * self.accumulate))
        self.num_steps = count_steps(
            len(self.loader), self.batch_size * self.accumulate, self.epochs, self.max_steps
        )
        self.update: Callable[[Tensor], Tensor] = self._update
        if self.runtime.cuda_graphs:
            self.update = Captured(self._update, self.batch_size * self.accumulate, self.runtime)
            make_capturable(self.optimizer, self.runtime.device)

    @property
    def is_done(self) -> bool:
        """Whether every step has been taken and its epoch finished."""
        return self.step >= self.num_steps and self.steps_into_epoch <= 0

    @property
    def steps_into_epoch(self) -> int:
        """How many steps of the epoch under way are done; negative if max_steps has ended the one before."""
        return self.step - self.epoch * self.steps_per_epoch

    @property
    def steps_in_epoch(self) -> int:
        """How many steps the epoch under way has: fewer than others where max_steps ends it."""
        return min(self.steps_per_epoch, self.num_steps - self.epoch * self.steps_per_epoch)

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, which stands for the progress in its middle: none is wasted at a rate of 0."""
        return self.lr * self.schedule((step + 0.5) / self.num_steps)

    def train_epoch(
        self, on_step: Callable[[StepLog | None], None], should_stop: Callable[[], bool]
    ) -> EpochResult:
        """Trains what is left of the epoch under way and finishes it.

        `on_step` is called after every step, with a StepLog where one is due. Raises Stopped between two steps when
        `should_stop`, and Diverged when a logged loss or the epoch's mean is not finite.
        """
        self.model.train()
        order = self.loader.shuffled(self.epoch, self.seed)
        groups = order.split(self.batch_size * self.accumulate)[
            self.steps_into_epoch : self.steps_in_epoch
        ]
        start = self.runtime.now() - self.seconds
        for group in groups:
            log = self._logged_step(group)
            on_step(log)
            if log is not None:
                check_finite(log.loss, f"the loss of step {log.step} in epoch {log.epoch}")
            if should_stop():
                self.seconds = self.runtime.now() - start
                raise Stopped
        return self._finish_epoch(self.runtime.now() - start)

    def _logged_step(self, group: Tensor) -> StepLog | None:
        is_due, step, lr = (
            self.steps_into_epoch % self.log_every == 0,
            self.step,
            self.lr_at(self.step),
        )
        loss = self.take_step(group, lr)
        if not is_due:
            return None
        mean_loss, accuracy, own_loss = self.metrics.read(loss)
        return StepLog(step, self.epoch + 1, own_loss, lr, mean_loss, accuracy)

    def take_step(self, group: Tensor, lr: float) -> Tensor:
        """One step at this learning rate on the images at `group`; returns their mean loss."""
        set_lr(self.optimizer, lr)
        with self.runtime.kernels():
            loss = self.update(group)
        self.step += 1
        return loss

    def _update(self, group: Tensor) -> Tensor:
        """Moves the weights by what the images at `group` say, in batches of batch_size; returns their mean loss."""
        total = torch.zeros((), device=group.device)
        for indices in group.split(self.batch_size):
            batch = self.loader.gather(indices)
            with self.runtime.autocast():
                logits = self.model(batch["images"])
            labels = batch["labels"]
            loss = cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
            share = loss * (len(indices) / len(group))
            share.backward()
            total += share.detach()
            self.metrics.add(loss, logits, labels)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def _finish_epoch(self, seconds: float) -> EpochResult:
        loss, accuracy, num_images = self.metrics.read(self.metrics.count)
        check_finite(loss, f"the mean loss of epoch {self.epoch + 1}")
        self.epoch += 1
        self.seconds = 0.0
        self.metrics.reset()
        return EpochResult(loss, accuracy, seconds, int(num_images))

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on, in types that `torch.load(weights_only=True)` accepts."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "metrics": self.metrics.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.runtime.cuda_graphs:
            make_capturable(self.optimizer, self.runtime.device)
        self.metrics.load_state_dict(state["metrics"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]


def exact_dtype(device: torch.device) -> torch.dtype:
    """The widest floating-point type there is on the device: sums over many images are kept in it."""
    return torch.float32 if device.type == "mps" else torch.float64


def check_finite(loss: float, where: str) -> None:
    """Raises Diverged, naming where, for a loss that is infinite or not a number."""
    if not math.isfinite(loss):
        raise Diverged(f"{where} is {loss}")


@torch.no_grad()
def evaluate(model: nn.Module, loader: DeviceLoader, runtime: Runtime) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over all images, in evaluation mode."""
    model.eval()
    metrics = Metrics(runtime.device)
    for batch in loader.in_order(EVAL_BATCH_SIZE):
        with runtime.autocast():
            logits = model(batch["images"])
        labels = batch["labels"]
        metrics.add(cross_entropy(logits.float(), labels), logits, labels)
    loss, accuracy = metrics.read()
    return loss, accuracy
