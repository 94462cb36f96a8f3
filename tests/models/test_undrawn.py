"""Networks built without drawing weights are those that are drawn, but for the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normbench.errors import NormbenchError
from normbench.models import Layers, models
from normbench.models.undrawn import without_drawing
from normbench.norms import norms


def built(model: str, norm: str) -> tuple[str, dict[str, torch.Size]]:
    """The network as text, with its parameters' shapes; or its refusal."""
    try:
        network = models.build(model, Layers(norms.build(norm), 0), 10)
    except NormbenchError as error:
        return str(error), {}
    return repr(network), {name: weight.shape for name, weight in network.named_parameters()}


@pytest.mark.parametrize("norm", ["bn", "frn", "in", "none", "scaled_ws", "ws_gn"])
@pytest.mark.parametrize("model", [entry.name for entry in models])
def test_an_undrawn_network_is_a_drawn_one_or_refused_as_it(model: str, norm: str) -> None:
    drawn = built(model, norm)
    with without_drawing(model, norm):
        assert built(model, norm) == drawn


def test_weights_are_drawn_but_within() -> None:
    with without_drawing("normresnet", "gn"):
        assert not any(weight.any() for weight in nn.Linear(4, 4).parameters())
    assert all(weight.any() for weight in nn.Linear(4, 4).parameters())


@pytest.mark.parametrize(("model", "norm"), [("my.py:Net", "gn"), ("normresnet", "my.py:Norm")])
def test_code_of_the_user_s_sees_drawn_weights(model: str, norm: str) -> None:
    with without_drawing(model, norm):
        assert nn.Linear(4, 4).weight.any()
