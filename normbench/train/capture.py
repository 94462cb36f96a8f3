"""Work on a GPU recorded once and launched as a whole from then on: launching is most of the time at small batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from normbench.train.runtime import Runtime

WARM_UP = 3  # calls that work as they are, on a stream of their own, as libraries choose and allocate in the first ones


class Captured:
    """`work`, a function of indices to a tensor, as a CUDA graph for `size` indices; for others it runs as it is.

    The graph is recorded at the first call after the warm-up. From then on the work reads and writes the memory it had
    then, and no Python of it runs: whatever is to change between calls must be changed in place.
    """

    def __init__(self, work: Callable[[Tensor], Tensor], size: int, runtime: Runtime) -> None:
        self.work = work
        self.runtime = runtime
        self.indices = torch.zeros(size, dtype=torch.int64, device=runtime.device)
        self.calls = 0
        self.replay: Callable[[], Tensor] | None = None

    def __call__(self, indices: Tensor) -> Tensor:
        """The result of the work on these indices; of a replay it is overwritten by the next one."""
        if len(indices) != len(self.indices):
            return self.work(indices)
        self.calls += 1
        if self.calls <= WARM_UP:
            with self.runtime.beside():
                return self.work(indices)
        self.indices.copy_(indices)
        if self.replay is None:
            self.replay = self.runtime.capture(lambda: self.work(self.indices))
        return self.replay()
