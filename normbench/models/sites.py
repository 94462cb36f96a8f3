"""The sites of norms in a model, and whether a norm can train there: asked before any work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normbench.models.layers import Layers
from normbench.norms.spec import NormSpec, Refusal

# (c, *places): channels, then height and width of a norm's input.
Site = tuple[int, ...]


def unsupported(spec: NormSpec, sites: Sequence[Site], batch_size: int) -> Refusal | None:
    """The first refusal of `spec` to train at these sites on batches of `batch_size`, if any."""
    for site in sites:
        refusal = spec.refuse((batch_size, *site))
        if refusal is not None:
            return refusal
    return None


def norm_sites(build: Callable[[Layers], nn.Module], image_shape: Sequence[int]) -> list[Site]:
    """The shape (c, *places) that reaches each norm of the model `build(layers)`, in forward order.

    A blank image runs through the model, with recorders in place of the norms. The meta device
    would save the computation, but the first operation on it imports torch code for four seconds.
    """
    sites: list[Site] = []
    recorder = NormSpec(scope="none", norm=lambda num_features: _Recorder(sites))
    with torch.no_grad():
        build(Layers(recorder, seed=0))(torch.zeros(1, *image_shape))
    return sites


def materialize(model: nn.Module, image_shape: Sequence[int]) -> nn.Module:
    """Gives lazy layers their shapes, which an optimizer needs; returns the model in training mode.

    A blank image runs through the model, in evaluation mode: no statistics are kept of it.
    """
    if any(is_lazy(parameter) for parameter in model.parameters()):
        with torch.no_grad():
            model.eval()(torch.zeros(1, *image_shape))
    return model.train()


class _Recorder(nn.Module):
    def __init__(self, sites: list[Site]) -> None:
        super().__init__()
        self.sites = sites

    def forward(self, x: Tensor) -> Tensor:
        self.sites.append(tuple(x.shape[1:]))
        return x
