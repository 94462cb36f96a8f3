"""The memory of training: kept for the backward pass, lasting from step to step, at the peak."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn


def saved_bytes(
    module: Callable[[Tensor], Tensor], x: Tensor, parameters: list[nn.Parameter]
) -> int:
    """Bytes that a forward pass keeps for the backward pass: each storage once, no parameters."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # The output keeps the graph, and with it the saved storages, alive while they are counted.
        y = module(x)
    for parameter in parameters:
        sizes.pop(parameter.untyped_storage().data_ptr(), None)
    del y
    return sum(sizes.values())


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes that last from step to step: parameters, buffers, the optimizer's tensors."""
    kept = [*model.parameters(), *model.buffers()]
    for state in optimizer.state.values():
        kept += [value for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.nbytes for tensor in kept)


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most bytes of tensors at a time while `work` runs, beyond those from before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    # torch.profiler.profile would import the compiler first, for seconds.
    with torch.autograd.profiler.profile(use_cpu=True, profile_memory=True) as profile:
        work()
    results = profile.kineto_results
    assert results is not None
    changes = [event for event in results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    totals = itertools.accumulate(event.nbytes() for event in changes)
    return max(totals, default=0)
