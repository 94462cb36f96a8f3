"""Networks with weights of 0: drawing them is most of the time that building one takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from normbench.users_code import is_own

DRAWING = (nn.init.kaiming_uniform_, nn.init.uniform_)


def without_drawing(model: str, norm: str) -> AbstractContextManager[object]:
    """Within it the network `model` under the norm has weights of 0, for one that only is built.

    Code of the user's sees the weights that it will have.
    """
    return nullcontext() if is_own(model) or is_own(norm) else Undrawn()


class Undrawn(TorchFunctionMode):
    """Within it weights are 0 that would be drawn uniformly."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls `func`, or sets the tensor to 0 that it would draw."""
        named = dict(kwargs or {})
        if func not in DRAWING:
            return func(*args, **named)
        return nn.init.zeros_(args[0] if args else named["tensor"])
