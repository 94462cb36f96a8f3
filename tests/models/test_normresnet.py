"""NormResNet's figures: parameters, shapes and multiply-adds of the source comparison."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from normbench.errors import NormbenchError
from normbench.models import Layers, models
from normbench.norms import NormSpec, norms


def normresnet(norm: str = "bn", widths: tuple[float, ...] = (64, 128, 256, 512)) -> nn.Module:
    layers = Layers(norms.build(norm), seed=0)
    return models.build("normresnet", layers, 10, options={"widths": widths})


@pytest.mark.parametrize(
    ("norm", "count"), [("bn", 1_557_066), ("ln", 1_557_066), ("gn", 1_557_066), ("in", 1_555_146)]
)
def test_normresnet_has_the_source_s_number_of_parameters(norm: str, count: int) -> None:
    assert sum(parameter.numel() for parameter in normresnet(norm).parameters()) == count


def test_every_stage_has_the_source_s_output_and_an_image_costs_58_4_million_multiply_adds() -> (
    None
):
    model, shapes, costs = normresnet(), {}, []
    for name, module in model.named_modules():

        def record(module: nn.Module, _: Any, output: torch.Tensor, name: str = name) -> None:
            shapes[name] = tuple(output.shape[1:])
            if isinstance(module, nn.Conv2d | nn.Linear):
                costs.append(output[0].numel() * module.weight[0].numel())

        module.register_forward_hook(record)
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    wanted = [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    assert [shapes[f"stage{i}"] for i in (1, 2, 3, 4)] == wanted
    assert sum(costs) == 1024 * 64 * 27 + 3 * 256 * 128 * 576 + 5120
    assert round(sum(costs) / 1e6, 1) == 58.4


def test_the_features_of_a_stage_are_activated_and_the_logits_are_not() -> None:
    model, x = normresnet(widths=(4, 8)), torch.randn(8, 3, 8, 8)
    assert model.stage1(x).min() == 0
    assert model(x).min() < 0


def test_a_norm_that_owns_its_activation_meets_no_second_activation() -> None:
    class Activated(nn.Hardswish):
        def __init__(self, num_features: int) -> None:
            super().__init__()

    spec = NormSpec("sample", lambda num_features: nn.Identity(), norm_act=Activated)
    model = models.build("normresnet", Layers(spec, seed=0), 10)
    types = [type(module) for module in model.modules()]
    assert types.count(Activated) == 4
    assert nn.ReLU not in types


def test_widths_decide_the_number_of_stages() -> None:
    assert [type(module) for module in normresnet(widths=(4,)).modules()].count(nn.Conv2d) == 1


@pytest.mark.parametrize(
    ("widths", "name"), [((), "widths"), ((4, 0), "widths.1"), ((4, 8.5), "widths.1")]
)
def test_an_empty_or_zero_width_is_refused(widths: tuple[float, ...], name: str) -> None:
    with pytest.raises(NormbenchError, match=f"^model.{name}: "):
        normresnet(widths=widths)
