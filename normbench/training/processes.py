"""The processes of a run under torch.distributed: their shares, and what they sum and agree upon.

Every method but `share` is a collective: all processes call it, in the same order.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process among the `number` of its run; `rank` counts from 0, the main process.

    stop_file: stands on the disk as soon as the run is asked to stop. In a run of one process every
    method gives back what it is given.
    """

    rank: int = 0
    number: int = 1
    stop_file: Path | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's directory and prints."""
        return self.rank == 0

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model with gradients that are averaged over the processes in the backward pass.

        The main process's parameters are copied to all, and its buffers before every step: running
        statistics are those of the main process's samples, unless the norm takes all samples.
        """
        if self.number == 1:
            return model
        # Without it a network with a parameter that is not used would not train. It also keeps the
        # order in which gradients are summed: a resumed run rounds as one that was never stopped.
        return _Network(model, find_unused_parameters=True)

    def share(self, indices: Tensor) -> Tensor:
        """This process's contiguous part of the indices; parts differ by one at most."""
        return indices.tensor_split(self.number)[self.rank]

    def unsummed(self, network: nn.Module, *, is_last: bool) -> AbstractContextManager[object]:
        """A context for a batch: of the batches of a step only the last one sums the gradients."""
        if isinstance(network, DistributedDataParallel) and not is_last:
            return network.no_sync()
        return nullcontext()

    def summed(self, values: Tensor) -> Tensor:
        """The sum of every process's values."""
        if self.number == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def any(self, condition: bool) -> bool:
        """Whether the condition holds in any process."""
        if self.number == 1:
            return condition
        # On the CPU, over gloo: a GPU need not finish its work for the answer.
        found = torch.tensor([condition], dtype=torch.uint8)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def is_to_stop(self, was_asked: bool) -> bool:
        """Whether any process was asked to stop, or the agent, which then makes the stop file."""
        if self.stop_file is not None:
            was_asked = was_asked or self.stop_file.exists()
        return self.any(was_asked)

    def gathered(self, content: Any) -> list[Any]:
        """The plain values of every process, by rank."""
        if self.number == 1:
            return [content]
        contents = [None] * self.number
        dist.all_gather_object(contents, content)
        return contents

    def from_main(self, content: Any) -> Any:
        """What the main process gives, whatever the others give."""
        if self.number == 1:
            return content
        held = [content]
        dist.broadcast_object_list(held)
        return held[0]

    def copy_buffers(self, model: nn.Module) -> None:
        """Copies the main process's buffers, such as running statistics, to the others."""
        if self.number > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


ALONE = Processes()


class _Network(DistributedDataParallel):
    """torch's, which also takes normbench's SyncBatchNorm on a CPU, where torch has none."""

    def _passing_sync_batchnorm_handle(self, module: nn.Module) -> None:
        """Does nothing: torch's refuses every SyncBatchNorm on a CPU."""


def loopback() -> str:
    """The name of the network interface that no other machine reaches."""
    return "lo0" if sys.platform == "darwin" else "lo"
