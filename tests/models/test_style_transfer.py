"""StyleTransferNet: shapes and counts as described, and every norm in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kit.norms import every_kind_of_norm, normal
from torch import nn

from normbench.errors import NormbenchError
from normbench.models import Layers, materialize, models, norm_sites
from normbench.norms import norms

SMALL = {"width": 0.25, "num_blocks": 1}


def network(norm: str = "in", **options: Any) -> nn.Module:
    return models.build("style_transfer", Layers(norms.build(norm), 0), 3, options=options)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_it_has_as_many_parameters_as_described_and_keeps_the_size() -> None:
    model = network()
    assert count(model) == 1_676_035
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 256, 256)).shape == (1, 3, 256, 256)


def test_a_norm_with_affine_adds_two_numbers_for_each_channel() -> None:
    channels = 32 + 64 + 128 + 10 * 128 + 64 + 32
    assert count(network("in_affine")) == count(network()) + 2 * channels
    assert count(network("gn")) == count(network("bn")) == count(network("in_affine"))


def test_the_published_variant_has_the_same_parameters() -> None:
    published = network(padding="reflect", upsampling="nearest")
    assert count(published) == count(network())
    sizes = [layer.padding_mode for layer in published.modules() if isinstance(layer, nn.Conv2d)]
    assert set(sizes) == {"reflect"}
    assert not any(isinstance(layer, nn.ConvTranspose2d) for layer in published.modules())


def test_norms_stand_after_every_convolution_but_the_last() -> None:
    def build(layers: Layers) -> nn.Module:
        return models.build("style_transfer", layers, 3)

    sites = norm_sites(build, (3, 32, 32), (3, 32, 32))
    inner = [(128, 8, 8)] * 11
    assert sites == [(32, 32, 32), (64, 16, 16), *inner, (64, 16, 16), (32, 32, 32)]


@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
@every_kind_of_norm
def test_an_image_comes_out_with_a_finite_gradient(name: str, upsampling: str) -> None:
    model = materialize(network(name, upsampling=upsampling, **SMALL), (3, 16, 16))
    images = normal(4, 3, 16, 16).float()
    made = model(images)
    assert made.shape == images.shape
    assert made.abs().max() <= 1
    (made - images).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("size", [18, 31])
def test_sizes_that_4_does_not_divide_are_refused_as_another_size_comes_out(size: int) -> None:
    def build(layers: Layers) -> nn.Module:
        return models.build("style_transfer", layers, 3, options=SMALL)

    with pytest.raises(NormbenchError, match="an image of each"):
        norm_sites(build, (3, size, size), (3, size, size))


def test_a_transposed_convolution_draws_as_torch_s_own_and_doubles_the_size() -> None:
    layer = Layers(norms.build("bn"), 3).conv_transpose(8, 4, 3, bias=True)
    assert layer(torch.zeros(1, 8, 5, 7)).shape == (1, 4, 10, 14)
    bound = (4 * 9) ** -0.5  # torch's uniform distribution: 1 / sqrt(out * h * w)
    for parameter in layer.parameters():
        assert parameter.abs().max() <= bound
    assert float(layer.weight.std().detach()) == pytest.approx(bound / 3**0.5, rel=0.1)


def test_weight_norm_has_a_length_for_each_output_of_a_transposed_convolution() -> None:
    layer = Layers(norms.build("weight_norm"), 0).conv_transpose(8, 4, 3)
    assert {tuple(p.shape) for p in layer.parametrizations.weight.parameters()} == {
        (1, 4, 1, 1),
        (8, 4, 3, 3),
    }
