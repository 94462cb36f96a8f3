"""The training loop: steps, epochs, evaluation. Knows tensors and a task, no files or config."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normbench.data.loader import DeviceLoader
from normbench.tasks.task import Task
from normbench.train.capture import Captured
from normbench.train.optim import Schedule, check_shapes, make_capturable, set_lr
from normbench.train.runtime import Runtime
from normbench.train.sums import Sums

# Divides 10,000 test images. Matters only to norms that evaluate with the statistics of a batch.
EVAL_BATCH_SIZE = 250


class Diverged(Exception):
    """The loss is no longer a finite number."""


class Stopped(Exception):
    """The run was asked to stop; the trainer stands between two steps and can be saved."""


@dataclass(frozen=True)
class StepLog:
    """A logged step: `step` counts from 0 over the run, `epoch` from 1; `loss` is the step's own.

    means: the task's metrics over the epoch so far.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    means: dict[str, float]


@dataclass(frozen=True)
class EpochResult:
    """An epoch of training: the metrics' means over its images, seconds, number of images."""

    means: dict[str, float]
    seconds: float
    num_images: int


@dataclass(frozen=True)
class Evaluation:
    """The metrics' means over a split; the images that are right, booleans (n,), as of `Task`."""

    means: dict[str, float]
    correct: Tensor | None


def count_steps(num_images: int, images_per_step: int, epochs: int, max_steps: int | None) -> int:
    """The steps of a whole run; an epoch's last step may have fewer images."""
    steps = epochs * math.ceil(num_images / images_per_step)
    return min(steps, max_steps or sys.maxsize)


@dataclass
class Trainer:
    """A model in training; its state can be saved between any two steps.

    batch_size: the images whose statistics a norm takes together. accumulate: the batches whose
    gradients make one step. max_steps: ends the run early. The learning rate of a step is
    lr * schedule((step + 1/2) / num_steps).
    """

    task: Task
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
    max_steps: int | None = None
    log_every: int = 100

    epoch: int = field(default=0, init=False)  # epochs finished
    step: int = field(default=0, init=False)  # steps taken over the whole run
    seconds: float = field(default=0.0, init=False)  # spent in the unfinished epoch

    def __post_init__(self) -> None:
        self.sums = Sums(self.task, self.runtime.device)
        self.images_per_step = self.batch_size * self.accumulate
        num_images = len(self.loader)
        self.steps_per_epoch = math.ceil(num_images / self.images_per_step)
        self.num_steps = count_steps(num_images, self.images_per_step, self.epochs, self.max_steps)
        # The arithmetic of a step: `_update` itself, or a CUDA graph of it.
        self.update: Callable[[Tensor], Tensor] = self._update
        if self.runtime.cuda_graphs:
            self.update = Captured(self._update, self.images_per_step, self.runtime)
            make_capturable(self.optimizer, self.runtime.device)

    @property
    def is_done(self) -> bool:
        """Whether every step has been taken and its epoch finished."""
        # After a last epoch that max_steps cut short, steps_into_epoch is negative.
        return self.step >= self.num_steps and self.steps_into_epoch <= 0

    @property
    def steps_into_epoch(self) -> int:
        """The steps done in the unfinished epoch; negative after a last epoch cut by max_steps."""
        return self.step - self.epoch * self.steps_per_epoch

    @property
    def steps_in_epoch(self) -> int:
        """The steps of the unfinished epoch, which max_steps may cut short."""
        return min(self.steps_per_epoch, self.num_steps - self.epoch * self.steps_per_epoch)

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, taken at the middle of the step: no step has a rate of 0."""
        return self.lr * self.schedule((step + 0.5) / self.num_steps)

    def train_epoch(
        self, on_step: Callable[[StepLog | None], None], should_stop: Callable[[], bool]
    ) -> EpochResult:
        """Trains the rest of the unfinished epoch and finishes it.

        on_step: called after every step, with a StepLog where a log is due. Raises Stopped between
        two steps when `should_stop`, Diverged when a logged loss or the epoch's mean is not finite.
        """
        self.model.train()
        order = self.loader.shuffled(self.epoch, self.seed)
        groups = order.split(self.images_per_step)[self.steps_into_epoch : self.steps_in_epoch]
        start = self.runtime.now() - self.seconds
        for group in groups:
            log = self._step(group)
            on_step(log)
            if log is not None:
                check_finite(log.loss, f"the loss of step {log.step} in epoch {log.epoch}")
            if should_stop():
                self.seconds = self.runtime.now() - start
                raise Stopped
        return self._finish_epoch(self.runtime.now() - start)

    def _step(self, group: Tensor) -> StepLog | None:
        is_due = self.steps_into_epoch % self.log_every == 0
        step = self.step
        lr = self.lr_at(step)
        loss = self.take_step(group, lr)
        if not is_due:
            return None
        means, (own_loss,) = self.sums.means_with(loss)
        return StepLog(step, self.epoch + 1, own_loss, lr, means)

    def take_step(self, group: Tensor, lr: float) -> Tensor:
        """Takes one optimizer step on the images `group`, at this rate; returns their mean loss."""
        set_lr(self.optimizer, lr)
        loss = self.update(group)
        self.step += 1
        return loss

    def _update(self, group: Tensor) -> Tensor:
        """Forward, backward and optimizer step on `group`, the images of one step.

        `group` is split into batches of batch_size; returns the mean loss.
        """
        total = torch.zeros((), device=group.device)
        for indices in group.split(self.batch_size):
            batch = self.loader.gather(indices)
            with self.runtime.autocast():
                outputs = self.model(batch["images"])
            outputs = outputs.float()
            loss = self.task.loss(outputs, batch, training=True)
            # An epoch's last batches may be short: every image has the same weight in the step.
            weighted_loss = loss * (len(indices) / len(group))
            weighted_loss.backward()
            total += weighted_loss.detach()
            self.sums.add(loss, outputs, batch)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def _finish_epoch(self, seconds: float) -> EpochResult:
        means, (num_images,) = self.sums.means_with(self.sums.count)
        check_finite(means["loss"], f"the mean loss of epoch {self.epoch + 1}")
        self.epoch += 1
        self.seconds = 0.0
        self.sums.reset()
        return EpochResult(means, seconds, int(num_images))

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on, in types for `torch.load(weights_only=True)`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": self.sums.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken.

        Raises KeyError, ValueError or RuntimeError for a state of another model, optimizer or
        length of run.
        """
        epoch, step = state["epoch"], state["step"]
        first, last = (min(n * self.steps_per_epoch, self.num_steps) for n in (epoch, epoch + 1))
        if not 0 <= epoch <= self.epochs or not first <= step <= last:
            raise ValueError(f"it is at step {step} after epoch {epoch}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        check_shapes(self.optimizer)
        if self.runtime.cuda_graphs:
            make_capturable(self.optimizer, self.runtime.device)
        self.sums.load_state_dict(state["sums"])
        self.epoch, self.step, self.seconds = epoch, step, state["seconds"]


def check_finite(loss: float, where: str) -> None:
    """Raises Diverged, naming where, for a loss that is infinite or not a number."""
    if not math.isfinite(loss):
        raise Diverged(f"{where} is {loss}")


@torch.no_grad()
def evaluate(model: nn.Module, loader: DeviceLoader, task: Task, runtime: Runtime) -> Evaluation:
    """The task's metrics over all images, in evaluation mode."""
    model.eval()
    sums = Sums(task, runtime.device)
    # In one piece from the start: small tensors that stay, between large ones that go, would keep
    # the large ones' memory from being used again.
    correct = torch.zeros(len(loader), dtype=torch.bool, device=runtime.device)
    knows_correct, place = True, 0
    for batch in loader.in_order(EVAL_BATCH_SIZE):
        with runtime.autocast():
            outputs = model(batch["images"])
        outputs = outputs.float()
        sums.add(task.loss(outputs, batch, training=False), outputs, batch)
        right = task.correct(outputs, batch)
        if right is None:
            knows_correct = False
        else:
            correct[place : place + len(right)] = right
        place += len(outputs)
    return Evaluation(sums.means(), correct if knows_correct else None)
