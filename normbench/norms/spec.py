"""The seam between norms and models: what a normalization method may decide about a network.

Most methods only supply the layer after a convolution. Some own the activation that follows it, some act on weights.
A NormSpec says all of it, so a model that asks `Layers` for its parts fits every method without naming any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

Shape = tuple[int, int, int, int]
Scope = Literal["batch", "sample", "weight", "none", "undeclared"]
Eps = Annotated[float, Field(gt=0)]
Momentum = Annotated[
    float, Field(ge=0, le=1)
]  # torch's: running = (1 - momentum) * running + momentum * batch
NumGroups = Annotated[int, Field(ge=1)]


def _accept(shape: Shape) -> str | None:
    return None


class Failed(str):
    """A reason to refuse an input that is an error raised by the norm's own code."""

    error: Exception


@dataclass(frozen=True)
class NormSpec:
    """One normalization method with its options chosen.

    scope: what its statistics run over; its contract is to confirm it. An own norm need not declare it.
    norm: `norm(num_features)` is the layer at a site with no activation after it.
    norm_act: the same where an activation follows, for methods that own theirs; None: the network's own after `norm`.
    reparametrize: acts on a conv or linear layer's weight after its initial values are drawn.
    conv_bias: whether the convolution before needs its own bias. False for any method that adds an offset, or removes
    the mean so that a bias could do nothing.
    refuse: why an input of shape (n, channels, height, width) cannot be normalized in training, or None.
    """

    scope: Scope
    norm: Callable[[int], nn.Module]
    norm_act: Callable[[int], nn.Module] | None = None
    reparametrize: Callable[[nn.Module], nn.Module] | None = None
    conv_bias: bool = False
    refuse: Callable[[Shape], str | None] = _accept
