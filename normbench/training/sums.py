"""Means of a task's metrics over many images, summed on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from normbench.tasks.task import Task
from normbench.training.processes import ALONE, Processes


class Sums:
    """The task's metrics as sums over images, kept on the device until somebody reads the means.

    Waiting for a GPU after every step would cost more than the step itself at small batches.
    Means are over the images of all `processes`, which therefore read them together.
    """

    def __init__(self, task: Task, device: torch.device, processes: Processes = ALONE) -> None:
        self.processes = processes
        names = [metric.name for metric in task.metrics]
        dtype = exact_dtype(device)
        self.totals = {name: torch.zeros((), dtype=dtype, device=device) for name in names}
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, loss: Tensor, sums: Mapping[str, Tensor], number: int) -> None:
        """Adds a batch of so many images: its mean loss, and the task's sums over them."""
        self.totals["loss"].add_(loss.detach(), alpha=number)
        for name, value in sums.items():
            self.totals[name].add_(value.detach())
        self.count.add_(number)

    def means(self) -> dict[str, float]:
        """Every metric's mean over the images."""
        return self.means_with()[0]

    def means_with(self, *scalars: Tensor) -> tuple[dict[str, float], list[float]]:
        """The means, and further scalars summed over processes, in one copy from the device."""
        dtype = exact_dtype(self.count.device)
        waiting = [self.count, *scalars, *self.totals.values()]
        stacked = torch.stack([scalar.to(dtype) for scalar in waiting])
        count, *values = self.processes.summed(stacked).tolist()
        totals = zip(self.totals, values[len(scalars) :], strict=True)
        return {name: total / count for name, total in totals}, values[: len(scalars)]

    def reset(self) -> None:
        """Zeroes the sums in place: a captured CUDA graph holds their addresses."""
        for total in (*self.totals.values(), self.count):
            total.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Plain values to save."""
        totals = {name: total.item() for name, total in self.totals.items()}
        return {"totals": totals, "count": self.count.item()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        for name, total in self.totals.items():
            total.fill_(state["totals"][name])
        self.count.fill_(state["count"])


def exact_dtype(device: torch.device) -> torch.dtype:
    """The widest floating-point type of the device: sums over many images are kept in it."""
    return torch.float32 if device.type == "mps" else torch.float64
