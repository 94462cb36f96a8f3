"""A training step as one CUDA graph: launching kernels is most of the time at small batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from normbench.training.runtime import Runtime

# Libraries choose kernels and allocate memory in their first calls, which a graph must not hold.
WARM_UP_CALLS = 3


class Captured:
    """`work`, from indices to a tensor, as a CUDA graph for `size` indices; else eagerly.

    The graph is recorded at the first call after the warm-up. A replay runs no Python and uses the
    memory of the recording: whatever is to change between calls must change in place.
    """

    def __init__(self, work: Callable[[Tensor], Tensor], size: int, runtime: Runtime) -> None:
        self.work = work
        self.runtime = runtime
        self.indices = torch.zeros(size, dtype=torch.int64, device=runtime.device)
        self.calls = 0
        self.replay: Callable[[], Tensor] | None = None

    def __call__(self, indices: Tensor) -> Tensor:
        """The result for these indices; the next replay overwrites it."""
        if len(indices) != len(self.indices):
            return self.work(indices)
        self.calls += 1
        if self.calls <= WARM_UP_CALLS:
            with self.runtime.side_stream():
                return self.work(indices)
        self.indices.copy_(indices)
        if self.replay is None:
            self.replay = self.runtime.capture(lambda: self.work(self.indices))
        return self.replay()
