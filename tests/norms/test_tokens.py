"""Norms at sites of tokens, x of shape (n, places, c): which values share a statistic there."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product

import pytest
import torch
from kit.norms import normal
from torch import Tensor
from torch.nn.functional import batch_norm, layer_norm, rms_norm

from normbench.certificates import certify
from normbench.models import Layers, materialize
from normbench.norms import norms

Run = Callable[..., tuple[int, str, str]]
SHAPE = (4, 6, 8)
EVERY = [entry.name for entry in norms]
AXES = "npc"
# The axes of tokens over which a statistic of each norm runs.
SHARED = {
    "ln": "c",
    "ln_c": "c",
    "rms": "c",
    "simple": "c",
    "dyt": "",
    "derf": "",
    "none": "",
    "bn": "np",
    "in": "p",
    "in_affine": "p",
    "frn": "p",
    "ln_chw": "pc",
}
CENTRED = {"ln", "ln_c", "bn", "in", "in_affine", "ln_chw"}


def on_tokens(name: str, x: Tensor) -> Tensor:
    layer = Layers(norms.build(name), seed=0).token_norm(x.shape[2])
    y: Tensor = materialize(layer, x.shape[1:]).double()(x)
    return y


ORACLES = {
    "ln": lambda x: layer_norm(x, (8,), eps=1e-5),
    "ln_c": lambda x: layer_norm(x, (8,), eps=1e-6),
    "rms": lambda x: rms_norm(x, (8,), eps=1e-6),
    "bn": lambda x: batch_norm(x.flatten(0, 1), None, None, training=True).reshape(x.shape),
    "in": lambda x: layer_norm(x.mT, (6,), eps=1e-5).mT,
    "dyt": lambda x: torch.tanh(0.5 * x),
    "derf": lambda x: torch.erf(0.5 * x),
}


@pytest.mark.parametrize("name", ORACLES)
def test_a_norm_on_tokens_is_torch_s_function(name: str) -> None:
    x = normal(*SHAPE)
    torch.testing.assert_close(on_tokens(name, x), ORACLES[name](x))


@pytest.mark.parametrize("name", SHARED)
def test_values_share_a_statistic_over_the_axes_that_the_field_says(name: str) -> None:
    x = normal(*SHAPE)
    changed = x.clone()
    changed[0, 0, 0] += 3
    moved = (on_tokens(name, changed) - on_tokens(name, x)).abs() > 1e-12
    assert moved[0, 0, 0]
    for offset in product((0, 1), repeat=3):
        axes = {axis for axis, is_away in zip(AXES, offset, strict=True) if is_away}
        if axes:
            assert bool(moved[offset]) == (axes <= set(SHARED[name])), axes


@pytest.mark.parametrize("name", EVERY)
def test_every_norm_takes_tokens_or_refuses_them(name: str) -> None:
    spec, x = norms.build(name), normal(*SHAPE).requires_grad_()
    if refusal := spec.refusal((4, 8, 6)):
        assert refusal.reason == "it acts on convolutions, and tokens come from linear layers"
        return
    y = on_tokens(name, x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", ["ln", "rms", "dyt", "derf", "bn"])
def test_the_features_of_a_token_stay_side_by_side(name: str) -> None:
    """No copy in another order: y lies in memory as x does."""
    assert on_tokens(name, normal(*SHAPE)).is_contiguous()


def test_ln_keeps_its_options_on_tokens() -> None:
    spec = norms.build("ln", options={"eps": 0.5, "affine": False})
    layer, x = Layers(spec, seed=0).token_norm(8).double(), normal(*SHAPE)
    assert not list(layer.parameters())
    torch.testing.assert_close(layer(x), layer_norm(x, (8,), eps=0.5))


@pytest.mark.parametrize("name", SHARED)
def test_a_certificate_of_tokens_finds_the_axes_that_the_field_says(name: str) -> None:
    found = certify(norms.build(name), tokens=True)
    axes = " ".join(axis for axis in "nct" if axis.replace("t", "p") in SHARED[name])
    assert found.shares_statistics_over == (axes or "nothing",)
    if name in CENTRED:
        assert found.mean_0_over == found.variance_1_over == (axes,)
    assert found.commutes_with_shifts == (name != "ln_chw")
    assert found.at_batch_1 == "works"


def test_a_certificate_of_tokens_is_one_of_linear_layers() -> None:
    """As before convolutions, the layer before a norm has no bias."""
    for name, fans in {"bn": (3, 256), "ln": (3, 256), "dyt": (), "none": ()}.items():
        certificate = certify(norms.build(name), tokens=True)
        assert certificate.ignores_scale_of_weights_of_fan_in == fans
    refused = certify(norms.build("ws_gn"), tokens=True).refused
    assert refused == "it acts on convolutions, and tokens come from linear layers"


def test_the_command_tells_a_norm_on_tokens(normbench: Run) -> None:
    code, out, err = normbench("norms", "ln", "--tokens")
    assert code == 0, err
    assert "shares statistics over              c\n" in out
    assert "at batch 1 on single tokens         works\n" in out
    code, out, _ = normbench("norms", "--tokens", "ln_chw", "--json")
    assert json.loads(out)["certificate"]["shares_statistics_over"] == ["c t"]
    code, _, err = normbench("norms", "ln", "--tokens", "--check")
    assert (code, err) == (
        2,
        "normbench: --tokens is for lists and certificates: leave out --check\n",
    )
