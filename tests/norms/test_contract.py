"""The contract over the whole registry, and layers that break it, each in one way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normbench.certificates import CHECKS, Broken, broken
from normbench.norms import NormSpec, norms

NAMES = [entry.name for entry in norms if entry.name != "adain"]
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("in", {"affine": True}),
    ("in", {"track_running_stats": True}),
    ("gn", {"num_groups": 1}),
    ("gn", {"num_groups": 8}),
    ("bn", {"momentum": None}),
    ("bn", {"affine": False}),
    ("ghost_bn", {"size": 2}),
    ("batch_renorm", {"warmup_steps": 0, "ramp_steps": 0}),
    ("evonorm_s0", {"num_groups": 1}),
    ("spectral_norm", {"num_power_iterations": 3}),
]


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in NAMES), *VARIANTS], ids=str)
def test_a_norm_keeps_the_contract(name: str, options: dict[str, Any]) -> None:
    assert [
        (sentence, wrong) for sentence, wrong in broken(norms.build(name, options=options)) if wrong
    ] == []


def test_what_no_classifier_can_have_is_not_tried() -> None:
    with pytest.raises(Broken, match="style image"):
        next(broken(norms.build("adain")))


def test_every_check_says_in_a_sentence_what_it_demands() -> None:
    sentences = [(check.__doc__ or "") for check in CHECKS]
    assert all(text.endswith(".") and "\n" not in text for text in sentences)
    assert len(set(sentences)) == len(CHECKS)


class Doubled(torch.autograd.Function):
    """Twice its input, with three times the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 3 * gradients[0]


class Layer(nn.Module):
    """A scale per channel, then whatever is wrong."""

    count: Tensor

    def __init__(self, num_features: int, spoil: Callable[[Layer, Tensor], Tensor]) -> None:
        super().__init__()
        self.spoil = spoil
        self.weight = nn.Parameter(torch.ones(num_features))
        self.register_buffer("count", torch.zeros(1))
        self.forgotten = torch.zeros(1)  # no buffer, so that no state_dict has it

    def forward(self, x: Tensor) -> Tensor:
        return self.spoil(self, x * self.weight[:, None, None])


def remember(layer: Layer, x: Tensor) -> Tensor:
    if layer.training:
        layer.forgotten = layer.forgotten + 1
    return x + layer.forgotten.to(x)


def raises(layer: Layer, x: Tensor) -> Tensor:
    raise ZeroDivisionError("on purpose")


SPOILED: list[tuple[str, Callable[[Layer, Tensor], Tensor]]] = [
    ("The output has the input's shape", lambda layer, x: x[..., :1]),
    ("The output has the input's shape", lambda layer, x: x.float()),
    (
        "Outputs, gradients and state are finite",
        lambda layer, x: x / x.detach().abs().mean((1, 2, 3), keepdim=True),
    ),
    ("Gradients are those of finite differences", lambda layer, x: Doubled.apply(x)),
    ("A gradient reaches every parameter", lambda layer, x: x.detach()),
    ("The declared scope", lambda layer, x: x - x.mean((1, 2, 3), keepdim=True)),
    ("In evaluation a sample gives alone", lambda layer, x: x if layer.training else x - x.mean()),
    ("In evaluation a sample gives alone", lambda layer, x: x + 0 * layer.count.add_(1)),
    ("What is refused fails or forgets", lambda layer, x: 0 * x),
    ("What is refused fails or forgets", raises),
    ("A new layer that loads the state", remember),
    ("Made and called twice", lambda layer, x: x + 1e-9 * torch.randn_like(x)),
    ("The memory layout changes nothing", lambda layer, x: x + x.is_contiguous()),
    ("It trains a small NormResNet", lambda layer, x: 1e30 * x),
]


@pytest.mark.parametrize(("sentence", "spoil"), SPOILED, ids=range(len(SPOILED)))
def test_a_layer_with_one_thing_wrong_breaks_the_check_for_it(
    sentence: str, spoil: Callable[[Layer, Tensor], Tensor]
) -> None:
    wrong = {
        text for text, reason in broken(NormSpec("none", lambda size: Layer(size, spoil))) if reason
    }
    assert any(text.startswith(sentence) for text in wrong), wrong


def test_the_layer_that_is_spoiled_is_sound_by_itself() -> None:
    assert not any(
        reason
        for _, reason in broken(NormSpec("none", lambda size: Layer(size, lambda layer, x: x)))
    )


def test_a_refusal_of_what_works_is_broken_too() -> None:
    spec = NormSpec(
        "none",
        lambda size: nn.Identity(),
        refuse=lambda shape: "too few" if shape[0] == 1 else None,
    )
    assert [reason for _, reason in broken(spec) if reason] == [
        "shape (1, 16, 4, 4): works, refusal: too few"
    ]


def test_random_initial_values_come_from_the_seed() -> None:
    """A layer that draws its first values is the same every time, whatever was drawn before."""

    class Random(Layer):
        def __init__(self, num_features: int) -> None:
            super().__init__(num_features, lambda layer, x: x)
            nn.init.uniform_(self.weight)

    torch.manual_seed(torch.seed() % 1000)
    assert not any(reason for _, reason in broken(NormSpec("none", Random)))
