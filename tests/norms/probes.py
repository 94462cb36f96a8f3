"""What the tests of norms share: inputs, and every norm's layer in float64 with random parameters and statistics."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from normbench.norms import NormSpec, norms

Array = NDArray[np.float64]
Options = dict[str, Any]
NAMES = [entry.name for entry in norms]
ONE_INPUT = [
    name for name in NAMES if name != "adain"
]  # the layers that can be called with x alone
OWN_ACTIVATION = [name for name in NAMES if norms.build(name).norm_act is not None]
REPARAMETRIZING = [name for name in NAMES if norms.build(name).reparametrize is not None]
CHANNELS = 8

every_norm = pytest.mark.parametrize("name", NAMES)
every_norm_of_one_input = pytest.mark.parametrize("name", ONE_INPUT)


def spec_of(name: str, **options: Any) -> NormSpec:
    return norms.build(name, options=options)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Float64 normal numbers whose channels have means and scales of their own."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if len(shape) == 4:
        x = (
            x * torch.linspace(0.5, 2, shape[1], dtype=torch.float64)[:, None, None]
            + torch.arange(shape[1])[:, None, None]
        )
    return x


def fitted(layer: nn.Module, like: Tensor) -> nn.Module:
    """The layer in float64 once its lazy parameters, if any, have the shapes that inputs `like` give them."""
    with torch.no_grad():
        layer.eval()(
            torch.zeros(2, *like.shape[1:])
        )  # of one sample BatchNorm without statistics may have one value
    return layer.double().train()


def new_layers(name: str, like: Tensor, **options: Any) -> list[nn.Module]:
    """The norm's layers for inputs `like`: without an activation, and with its own where it has one."""
    spec = spec_of(name, **options)
    return [
        fitted(make(like.shape[1]), like) for make in (spec.norm, spec.norm_act) if make is not None
    ]


def new_layer(name: str, like: Tensor, **options: Any) -> nn.Module:
    """The layer that has the norm's statistics: EvoNorm's without an activation is a scale and shift alone."""
    return new_layers(name, like, **options)[-1]


def layer_of(name: str, like: Tensor, **options: Any) -> nn.Module:
    """The same, with random parameters in the place of 1 and 0."""
    return randomize(new_layer(name, like, **options))


def randomize(layer: nn.Module) -> nn.Module:
    """Parameters of size 0.5 to 1.5 and either sign, the same for the same name, so that two layers can share them."""
    for name, parameter in layer.named_parameters():
        draw = torch.rand((2, *parameter.shape), generator=_named(name), dtype=torch.float64)
        with torch.no_grad():
            parameter.copy_((draw[0] + 0.5) * torch.where(draw[1] < 0.4, -1.0, 1.0))
    return layer


def with_statistics(layer: nn.Module, num_batches: int = 0) -> nn.Module:
    """The layer with random running statistics, as if after `num_batches` batches."""
    for name, buffer in layer.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=_named(name), dtype=torch.float64) + 2)
        elif name.endswith("running_var"):
            buffer.copy_(
                torch.rand(buffer.shape, generator=_named(name), dtype=torch.float64) * 3 + 0.5
            )
        elif name.endswith("num_batches_tracked"):
            buffer.fill_(num_batches)
    return layer


def share_parameters(source: nn.Module, target: nn.Module) -> None:
    """Copies the source's parameters to the target's of the same names."""
    own = dict(source.named_parameters())
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            parameter.copy_(own[name].reshape(parameter.shape))


def results(layer: nn.Module, x: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """The output for x, and the gradients of sum(output * gradient) for x and every parameter."""
    x = x.detach().clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    (y * gradient).sum().backward()
    found = {
        "y": y,
        "x": x.grad,
        **{name: parameter.grad for name, parameter in layer.named_parameters()},
    }
    return {name: value.detach().clone() for name, value in found.items() if value is not None}


def statistics(layer: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in layer.named_buffers() if "running" in name}


@contextmanager
def float_keeps_float64() -> Iterator[None]:
    """timm computes EvoNorm's and FRN's statistics in float32, by x.float(): here in float64, to hold them closely."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", lambda self: self)
        yield


def _named(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))
