"""Registered norms as test parameters, and their layers in float64 with random parameters."""

from __future__ import annotations

import zlib
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
# One norm of each kind: where statistics run, with state or without, written out or torch's, with
# its activation, lazy, of weights.
KINDS = {
    *("bn", "ghost_bn", "switchable", "gn", "in_affine", "ln_c", "ln_chw", "none"),
    *("evonorm_b0", "evonorm_s0", "frn", "spectral_norm", "ws_gn"),
}
OWN_ACTIVATION = [name for name in NAMES if norms.build(name).norm_act is not None]
REPARAMETRIZING = [name for name in NAMES if norms.build(name).reparametrize is not None]
CHANNELS = 8

# For cheap tests: all norms, always. For expensive tests: the quick tier has one of each kind.
every_norm = pytest.mark.parametrize("name", NAMES)
EVERY_NORM = [
    pytest.param(name, id=name, marks=() if name in KINDS else pytest.mark.slow) for name in NAMES
]
every_kind_of_norm = pytest.mark.parametrize("name", EVERY_NORM)


def spec_of(name: str, **options: Any) -> NormSpec:
    return norms.build(name, options=options)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Float64 normal numbers; the channels of a map have means and scales of their own."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if len(shape) != 4:
        return x
    scales = torch.linspace(0.5, 2, shape[1], dtype=torch.float64)
    return x * scales[:, None, None] + torch.arange(shape[1])[:, None, None]


def fitted(layer: nn.Module, like: Tensor) -> nn.Module:
    """The layer in float64; lazy parameters take the shapes for inputs `like`."""
    with torch.no_grad():
        # Two samples: BatchNorm without running statistics fails on a single value.
        layer.eval()(torch.zeros(2, *like.shape[1:]))
    return layer.double().train()


def new_layers(name: str, like: Tensor, **options: Any) -> list[nn.Module]:
    """The layers for inputs `like`: without an activation, and with its own if the norm has one."""
    spec = spec_of(name, **options)
    makes = [make for make in (spec.norm, spec.norm_act) if make is not None]
    return [fitted(make(like.shape[1]), like) for make in makes]


def new_layer(name: str, like: Tensor, **options: Any) -> nn.Module:
    """The layer with statistics: EvoNorm's layer without an activation has none."""
    return new_layers(name, like, **options)[-1]


def layer_of(name: str, like: Tensor, **options: Any) -> nn.Module:
    """The layer with statistics, with random parameters."""
    return randomize(new_layer(name, like, **options))


def randomize(layer: nn.Module) -> nn.Module:
    """Draws parameters of size 0.5 to 1.5 and either sign, equal for parameters of equal names."""
    for name, parameter in layer.named_parameters():
        draw = torch.rand((2, *parameter.shape), generator=_named(name), dtype=torch.float64)
        with torch.no_grad():
            parameter.copy_((draw[0] + 0.5) * torch.where(draw[1] < 0.4, -1.0, 1.0))
    return layer


def with_statistics(layer: nn.Module, num_batches: int = 0) -> nn.Module:
    """Gives the layer random running statistics, as if after `num_batches` batches."""
    for name, buffer in layer.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=_named(name), dtype=torch.float64) + 2)
        elif name.endswith(("running_var", "running_mean_square")):
            draw = torch.rand(buffer.shape, generator=_named(name), dtype=torch.float64)
            buffer.copy_(draw * 3 + 0.5)
        elif name.endswith(("running_whitening", "_control")):
            buffer.copy_(torch.randn(buffer.shape, generator=_named(name), dtype=torch.float64))
        elif name.endswith("num_batches_tracked"):
            buffer.fill_(num_batches)
    return layer


def share_parameters(source: nn.Module, target: nn.Module) -> None:
    """Copies the source's parameters to the target's parameters of the same names."""
    values = dict(source.named_parameters())
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            parameter.copy_(values[name].reshape(parameter.shape))


def results(layer: nn.Module, x: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """The output "y", and the gradients of sum(y * gradient) for "x" and the parameters by name."""
    x = x.detach().clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    (y * gradient).sum().backward()
    found = {"y": y, "x": x.grad}
    found |= {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {name: value.detach().clone() for name, value in found.items() if value is not None}


def assert_equal_results(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Compares the tensors of `wanted`."""
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name} {text}")


def statistics(layer: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in layer.named_buffers() if "running" in name}


def _named(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))
