"""What training needs in memory: what is kept for the backward pass, what lasts, and the most there is in a step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def saved_bytes(
    module: Callable[[Tensor], Tensor], x: Tensor, parameters: list[nn.Parameter]
) -> int:
    """Bytes that one forward pass keeps for the backward pass: every storage once, parameters not counted."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = module(x)
    for parameter in parameters:
        sizes.pop(parameter.untyped_storage().data_ptr(), None)
    del y
    return sum(sizes.values())


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes that last from step to step: parameters, buffers, and what the optimizer keeps of each."""
    kept = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    return _bytes([*model.parameters(), *model.buffers(), *kept])


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most bytes that tensors take at a time while `work` runs, beyond those that were there before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        work()
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    changes = [
        event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    totals = itertools.accumulate(
        event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())
    )
    return max(totals, default=0)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
