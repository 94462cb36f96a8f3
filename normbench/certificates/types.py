"""The floating types in which a layer computes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _FloatingTypes(TorchFunctionMode):
    """Collects the floating types that torch's functions return."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, list | tuple) else (result,):
            if isinstance(value, Tensor) and value.is_floating_point():
                self.found.add(value.dtype)
        return result


def narrowest_type(layer: nn.Module, x: Tensor) -> str:
    """The narrowest floating type that the layer's forward pass makes of x, as "float64"."""
    layer = copy.deepcopy(layer).train()
    with _FloatingTypes() as types:
        layer(x)
    narrowest = min(types.found | {x.dtype}, key=lambda dtype: dtype.itemsize)
    return str(narrowest).removeprefix("torch.")
