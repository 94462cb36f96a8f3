"""The metrics of a model on a whole split, in evaluation mode."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.data.loader import DeviceLoader
from normbench.tasks.task import Task
from normbench.training.processes import ALONE, Processes
from normbench.training.runtime import Runtime
from normbench.training.sums import Sums

# Divides 10,000 test images. Matters only to norms that evaluate with the statistics of a batch.
EVAL_BATCH_SIZE = 250


@dataclass(frozen=True)
class Evaluation:
    """The metrics' means over a split; the images that are right, booleans (n,), as of `Task`."""

    means: dict[str, float]
    correct: Tensor | None


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: DeviceLoader,
    task: Task,
    runtime: Runtime,
    processes: Processes = ALONE,
) -> Evaluation:
    """The task's metrics over all images, in evaluation mode; batches are shared by `processes`."""
    model.eval()
    sums = Sums(task, runtime.device, processes)
    # In one piece from the start: small tensors that stay, between large ones that go, would keep
    # the large ones' memory from being used again.
    correct = torch.zeros(len(loader), dtype=torch.bool, device=runtime.device)
    knows_correct = True
    batches = torch.arange(len(loader), device=runtime.device).split(EVAL_BATCH_SIZE)
    # Whole batches: norms that evaluate with the statistics of a batch see the same ones.
    for indices in batches[processes.rank :: processes.number]:
        batch = loader.gather(indices)
        with runtime.autocast():
            outputs = model(batch["images"])
        outputs = outputs.float()
        sums.add(*task.assess(outputs, batch, training=False), len(indices))
        right = task.correct(outputs, batch)
        if right is None:
            knows_correct = False
        else:
            correct[indices] = right
    means = sums.means()
    knows_correct = not processes.any(not knows_correct)
    if knows_correct and processes.number > 1:
        correct = processes.summed(correct.to(torch.uint8)).bool()
    return Evaluation(means, correct if knows_correct else None)
