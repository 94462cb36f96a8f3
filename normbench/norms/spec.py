"""The seam between norms and models: all that a normalization method decides about a network.

Most methods only supply the layer after a convolution. Some own the activation after the layer,
some act on weights. A model asks `models.Layers` for its parts, so every method fits every model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

# (n, c, *places): samples, channels, then the places of a feature map, which are (height, width).
Shape = tuple[int, ...]
Scope = Literal["batch", "sample", "weight", "none", "undeclared"]
Eps = Annotated[float, Field(gt=0)]
# As in torch: running = (1 - momentum) * running + momentum * batch.
Momentum = Annotated[float, Field(ge=0, le=1)]
NumGroups = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Refusal:
    """Why a norm cannot train on an input; `error` was raised by the code of an own norm."""

    reason: str
    error: Exception | None = None


def _accept(shape: Shape) -> Refusal | None:
    return None


@dataclass(frozen=True)
class ParameterRule:
    """How a layer's parameter is trained in another way than scale and shift.

    A layer's attribute `parameter_rules` maps names of its parameters to rules. lr_factor: times
    the learning rate. bounds: the parameter is clamped to them after every step. It never decays.
    """

    lr_factor: float
    bounds: tuple[float, float]


@dataclass(frozen=True)
class NormSpec:
    """A normalization method with its options chosen.

    scope: the values that statistics run over, verified by the contract of norms.
    norm: `norm(num_features)` makes the layer for a site that no activation follows.
    norm_act: makes layer and activation in one, for methods that own the activation. None: the
        network's activation follows `norm`.
    reparametrize: changes a conv or linear layer after its initial weight has been drawn.
    conv_bias: whether the convolution before the norm keeps a bias. False for a norm that adds an
        offset, or that removes the mean, which would cancel the bias.
    refuse: decides whether the norm can train on inputs of a shape (n, c, *places).
    elsewhere: the method at those sites of a residual network that are not for this one.
    tokens: the method at sites of tokens, where the field has another one by this name. None: the
        method itself, on a map (n, c, places, 1).
    is_synced: whether statistics run over the samples of all processes of a run.
    has_own_gradient: whether the backward pass is the method's own instead of the derivative, which
        the contract then does not demand.
    """

    scope: Scope
    norm: Callable[[int], nn.Module]
    norm_act: Callable[[int], nn.Module] | None = None
    reparametrize: Callable[[nn.Module], nn.Module] | None = None
    conv_bias: bool = False
    refuse: Callable[[Shape], Refusal | None] = _accept
    elsewhere: NormSpec | None = None
    tokens: NormSpec | None = None
    is_synced: bool = False
    has_own_gradient: bool = False

    @property
    def on_tokens(self) -> NormSpec:
        """The method at sites of tokens; its layers take a map (n, c, places, 1)."""
        return self.tokens or self

    def refusal(self, shape: Shape) -> Refusal | None:
        """Why the norm cannot train on maps (n, c, h, w) or tokens (n, c, places), if so."""
        if len(shape) == 3:
            return self.on_tokens.refuse((*shape, 1))
        return self.refuse(shape)

    @property
    def is_none(self) -> bool:
        """Whether nothing is normalized: no statistics, no offset, no change of weights."""
        return self.scope == "none" and self.conv_bias and self.reparametrize is None
