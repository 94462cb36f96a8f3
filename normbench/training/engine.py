"""The training loop: steps and epochs. Knows tensors and a task, no files or config."""

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
from normbench.training.capture import Captured
from normbench.training.optim import (
    Schedule,
    body_parameters,
    check_shapes,
    clamp_parameters,
    clip_adaptively,
    make_capturable,
    set_lr,
)
from normbench.training.processes import ALONE, Processes
from normbench.training.runtime import Runtime
from normbench.training.scaling import LossScaler
from normbench.training.sums import Sums


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
    """An epoch of training: the metrics' means over its images, seconds, number of images.

    num_skipped: the steps that fp16's loss scaling has skipped.
    """

    means: dict[str, float]
    seconds: float
    num_images: int
    num_skipped: int = 0


def count_steps(num_images: int, images_per_step: int, epochs: int, max_steps: int | None) -> int:
    """The steps of a whole run; an epoch's last step may have fewer images."""
    steps = epochs * math.ceil(num_images / images_per_step)
    return min(steps, max_steps or sys.maxsize)


@dataclass
class Trainer:
    """A model in training; its state can be saved between any two steps.

    batch_size: the images whose statistics a norm takes together, of each process. accumulate: the
    batches whose gradients make one step. max_steps: ends the run early. The learning rate of a
    step is lr * schedule((step + 1/2) / num_steps). agc: the factor of adaptive gradient clipping,
    None without. processes: who shares the images of a step; `images_per_step` and all steps are
    those of all processes together.
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
    agc: float | None = None
    processes: Processes = ALONE

    epoch: int = field(default=0, init=False)  # epochs finished
    step: int = field(default=0, init=False)  # steps taken over the whole run
    seconds: float = field(default=0.0, init=False)  # spent in the unfinished epoch

    def __post_init__(self) -> None:
        self.sums = Sums(self.task, self.runtime.device, self.processes)
        self.scaler = LossScaler(self.runtime)
        # The state is the model's, under the model's own names.
        self.network = self.processes.wrapped(self.model)
        self.body = body_parameters(self.model)
        layers = self.model.modules()
        self.is_synced = any(isinstance(layer, nn.SyncBatchNorm) for layer in layers)
        self.images_together = self.batch_size * self.processes.number
        self.images_per_step = self.images_together * self.accumulate
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
            if self.processes.is_to_stop(should_stop()):
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
        return StepLog(step, self.epoch + 1, own_loss / self.processes.number, lr, means)

    def take_step(self, group: Tensor, lr: float) -> Tensor:
        """Takes one optimizer step on the images `group`, at this rate; returns their mean loss.

        Of several processes, the mean of what these return is the mean loss.
        """
        set_lr(self.optimizer, lr)
        loss = self.update(group)
        self.step += 1
        return loss

    def _update(self, group: Tensor) -> Tensor:
        """Forward, backward and optimizer step on `group`, the images of one step.

        `group` is split into batches of batch_size for each process; returns the mean loss.
        """
        total = torch.zeros((), device=group.device)
        together = group.split(self.images_together)
        for number, images in enumerate(together, 1):
            with self.processes.unsummed(self.network, is_last=number == len(together)):
                total += self._backward(images, len(group))
        if self.agc is not None:
            self.scaler.unscale(self.optimizer)
            clip_adaptively(self.body, self.agc)
        self.scaler.step(self.optimizer)
        clamp_parameters(self.optimizer)
        self.optimizer.zero_grad()
        return total

    def _backward(self, images: Tensor, images_of_step: int) -> Tensor:
        """Forward and backward on this process's share of `images`; returns the weighted loss."""
        indices = self.processes.share(images)
        is_idle = len(indices) == 0
        # Every process has to take part. One without an image, in a short last step, computes on
        # one that counts nothing; on none where a norm would take it into its statistics.
        stand_in = images[:0] if self.is_synced else images[:1]
        batch = self.loader.gather(stand_in if is_idle else indices)
        with self.runtime.autocast():
            outputs = self.network(batch["images"])
        outputs = outputs.float()
        loss: Tensor
        sums: dict[str, Tensor] = {}
        if is_idle:
            loss = outputs.sum()
        else:
            loss, sums = self.task.assess(outputs, batch, training=True)
        # An epoch's last batches may be short: every image has the same weight in the step, whose
        # gradient is the mean of the processes' gradients.
        weighted_loss = loss * (len(indices) * self.processes.number / images_of_step)
        self.scaler.backward(weighted_loss)
        if not is_idle:
            self.sums.add(loss, sums, len(indices))
        return weighted_loss.detach()

    def _finish_epoch(self, seconds: float) -> EpochResult:
        means, (num_images,) = self.sums.means_with(self.sums.count)
        check_finite(means["loss"], f"the mean loss of epoch {self.epoch + 1}")
        self.processes.copy_buffers(self.model)
        self.epoch += 1
        self.seconds = 0.0
        self.sums.reset()
        num_skipped, self.scaler.skipped = self.scaler.skipped, 0
        return EpochResult(means, seconds, int(num_images), num_skipped)

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on, in types for `torch.load(weights_only=True)`.

        All processes ask for it together; the sums of several are a list.
        """
        sums = self.processes.gathered(self.sums.state_dict())
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": sums if len(sums) > 1 else sums[0],
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            **self.scaler.state_dict(),
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
        self.scaler.load_state_dict(state)
        if self.runtime.cuda_graphs:
            make_capturable(self.optimizer, self.runtime.device)
        sums = state["sums"]
        self.sums.load_state_dict(sums[self.processes.rank] if isinstance(sums, list) else sums)
        self.epoch, self.step, self.seconds = epoch, step, state["seconds"]


def check_finite(loss: float, where: str) -> None:
    """Raises Diverged, naming where, for a loss that is infinite or not a number."""
    if not math.isfinite(loss):
        raise Diverged(f"{where} is {loss}")
