"""The loss scale of fp16: gradients are computed times it, lest small ones become zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normbench.training.runtime import Runtime


class LossScaler:
    """Dynamic loss scaling (arXiv:1710.03740, section 3.2) under fp16; nothing otherwise.

    A step whose gradients are infinite is skipped, and halves the scale; 2000 steps without one
    double it. skipped: the steps skipped in the unfinished epoch.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.is_on = runtime.precision == "fp16"
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=self.is_on)
        self.skipped = 0

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients of the loss, times the scale."""
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divides the gradients by the scale, for whatever reads them before the step."""
        if self.is_on:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes the optimizer's step, unless a gradient is infinite or not a number.

        Under fp16 the scale is read after every step, for which the device is waited for.
        """
        if not self.is_on:
            optimizer.step()
            return
        before = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        self.skipped += self.scaler.get_scale() < before

    def state_dict(self) -> dict[str, Any]:
        """What the rest of the run depends on; empty without scaling."""
        if not self.is_on:
            return {}
        return {"scaler": {**self.scaler.state_dict(), "skipped": self.skipped}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave. Raises KeyError for a state without it."""
        if self.is_on:
            saved = dict(state["scaler"])
            self.skipped = saved.pop("skipped")
            self.scaler.load_state_dict(saved)
