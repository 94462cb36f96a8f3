"""The models by name, and the question asked before any work: can this norm train this model on this input?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from normbench.models.layers import Layers
from normbench.norms.spec import NormSpec
from normbench.registry import Registry

Site = tuple[int, int, int]  # channels, height, width where a norm stands

models: Registry[nn.Module] = Registry("model")


def unsupported(spec: NormSpec, sites: Sequence[Site], batch_size: int) -> str | None:
    """Why `spec` cannot train a model with these norm sites on batches of `batch_size`, or None."""
    return next((reason for site in sites if (reason := spec.refuse((batch_size, *site)))), None)


def norm_sites(build: Callable[[Layers], nn.Module], image_shape: Sequence[int]) -> list[Site]:
    """The shape (c, h, w) that reaches each norm of the model that `build` makes, in the order of the forward pass.

    One blank image runs through the model with recorders in place of the norms. (On the meta device it would cost
    nothing to compute, but the first operation there imports four seconds' worth of torch.)
    """
    sites: list[Site] = []
    recorder = NormSpec(scope="none", norm=lambda num_features: _Recorder(sites))
    with torch.no_grad():
        build(Layers(recorder, seed=0))(torch.zeros(1, *image_shape))
    return sites


def materialize(model: nn.Module, image_shape: Sequence[int]) -> nn.Module:
    """The model, whose lazy layers take their shapes from a blank image, before an optimizer asks for parameters.

    In evaluation mode, so that no statistics are kept of it; afterwards in training mode, as a new model is.
    """
    if any(is_lazy(parameter) for parameter in model.parameters()):
        with torch.no_grad():
            model.eval()(torch.zeros(1, *image_shape))
    return model.train()


class _Recorder(nn.Module):
    def __init__(self, sites: list[Site]) -> None:
        super().__init__()
        self.sites = sites

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, channels, height, width = x.shape
        self.sites.append((channels, height, width))
        return x
