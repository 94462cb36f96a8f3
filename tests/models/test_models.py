"""The contract of every registered model: parts from Layers, and a step under every norm."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from kit.norms import every_kind_of_norm
from torch import nn
from torch.nn.functional import cross_entropy

from normbench.errors import Unsupported
from normbench.models import Layers, materialize, models, norm_sites, unsupported
from normbench.models.residual import PadShortcut
from normbench.norms import NormSpec, norms
from normbench.norms.adain import AdaIN

IMAGES = (2, 3, 32, 32)

every_model = pytest.mark.parametrize("model_name", [entry.name for entry in models])


def build(model_name: str, layers: Layers) -> nn.Module:
    return models.build(model_name, layers, 10)


# The norms that a network refuses: no place has a variance, or a norm contains the activation, or
# it acts on convolutions, of which there are none.
REFUSED = {
    "lstm": {
        *("evonorm_b0", "evonorm_b1", "evonorm_b2", "evonorm_s0", "evonorm_s1", "evonorm_s2"),
        *("frn", "ibn", "in", "in_affine", "mabn", "scaled_ws", "ws_bn", "ws_gn"),
    },
    "vit": {"mabn", "scaled_ws", "ws_bn", "ws_gn"},
}


def accepted(model_name: str, spec: NormSpec) -> nn.Module | None:
    """The network under the norm; None where either refuses the other."""
    sites = norm_sites(partial(build, model_name), IMAGES[1:])
    if unsupported(spec, sites, len(IMAGES)) is not None:
        return None
    try:
        return build(model_name, Layers(spec, seed=0))
    except Unsupported:
        return None


@every_model
@every_kind_of_norm
def test_a_model_gives_outputs_and_takes_a_finite_step(model_name: str, name: str) -> None:
    network = accepted(model_name, norms.build(name))
    assert (network is None) == (name in REFUSED.get(model_name, ()))
    if network is None:
        return
    model = materialize(network, IMAGES[1:])
    outputs = model(torch.randn(IMAGES))
    # Scores, or an image of ten channels.
    assert outputs.shape in ((2, 10), (2, 10, *IMAGES[2:]))
    scores = outputs if outputs.ndim == 2 else outputs.mean((2, 3))
    cross_entropy(scores, torch.tensor([0, 1])).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert all(value.isfinite().all() for value in model.state_dict().values())


class Recording(Layers):
    """Layers that remembers all modules handed out."""

    def __init__(self, spec: NormSpec, seed: int = 0) -> None:
        super().__init__(spec, seed)
        self.handed_out: set[nn.Module] = set()

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        if name.startswith("_") or not callable(attribute):
            return attribute

        def remember(*arguments: Any, **options: Any) -> Any:
            module = attribute(*arguments, **options)
            self.handed_out.update(module.modules())
            return module

        return remember


@every_model
def test_a_model_builds_no_layer_norm_or_activation_of_its_own(model_name: str) -> None:
    layers = Recording(norms.build("gn"))
    model = build(model_name, layers)
    assert layers.handed_out
    own = [m for m in model.modules() if m not in layers.handed_out and not list(m.children())]
    # None of these has weights or is an activation.
    allowed = {
        nn.AdaptiveAvgPool2d,
        nn.MaxPool2d,
        nn.Flatten,
        nn.Identity,
        PadShortcut,
        nn.Tanh,
        AdaIN,
    }
    assert {type(module) for module in own} <= allowed
    handed_out = {id(p) for module in layers.handed_out for p in module.parameters()}
    assert {id(p) for p in model.parameters()} == handed_out
