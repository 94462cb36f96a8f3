"""Anybody's networks, from a file or a module: options, identity, errors, and equal beginnings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit.tiny import tiny

from normbench.config.compose import compose
from normbench.errors import NormbenchError
from normbench.models import Layers, models
from normbench.norms import norms
from normbench.training.resolve import resolve

Run = Callable[..., tuple[int, str, str]]

SOURCE = '''"""Networks to try."""
import torch
from torch import nn
from torch.nn.functional import relu


class Net(nn.Module):
    """Two convolutions, the second with a functional activation."""

    def __init__(self, num_classes, width: int = 8, kernel=3):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, kernel, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        x = self.act(self.bn1(self.conv1(x)))
        x = relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


class WithHead(Net):
    """A norm of features between two linear layers."""

    def __init__(self, num_classes):
        super().__init__(num_classes=6)
        self.head = nn.Sequential(nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, num_classes))

    def forward(self, x):
        return self.head(super().forward(x))


class OnlyFeatures(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(
            nn.Flatten(), nn.LazyLinear(6), nn.BatchNorm1d(6), nn.Linear(6, num_classes)
        )


def asks(layers, num_classes, width=4):
    """A network of normbench's layers, after which stands one of its own."""
    return nn.Sequential(
        layers.conv(3, width, 3), layers.norm_act(width),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), layers.linear(width, num_classes),
        nn.Linear(num_classes, num_classes),
    )


class Looks(Net):
    """Its forward looks at the images, so that torch.fx cannot trace it."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Bare(nn.Module):
    """No norm."""

    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))


class Wide(Net):
    """Gives a map of scores."""

    def forward(self, x):
        return self.bn1(self.conv1(x))


class Large(Net):
    """Needs images of 224 pixels."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.fc = nn.Linear(224 * 224, num_classes)

    def forward(self, x):
        return self.fc(self.bn1(self.conv1(x)).mean(1).flatten(1))


class Fails(nn.Module):
    def __init__(self, num_classes):
        undefined_name()


def no_classes(width=3):
    return nn.Linear(width, 10)


def number(num_classes):
    return 3
'''
FILE = "my_nets.py"
SMALL = (
    *("data=synthetic", "data.num_train=48", "data.num_test=20", "batch_size=8", "epochs=1"),
    "train.log_every=1",
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / FILE
    path.write_text(SOURCE)
    return path


def settings(name: str, *more: str) -> list[str]:
    return [f"model={FILE}:{name}", *SMALL, *more]


@pytest.mark.parametrize("norm", ["bn", "gn", "evonorm_s0", "ws_gn"])
def test_a_network_of_a_file_trains_and_is_reported_when_it_is_done(
    file: Path, normbench: Run, norm: str
) -> None:
    command = ["train", "--norm", norm, *settings("Net", "model.options.width=16")]
    code, _, err = normbench(*command)
    assert code == 0, err
    (path,) = (file.parent / "results" / "runs").glob(f"Net-{norm}-b8-s0-*")
    before = (path / "metrics.csv").read_text()
    assert normbench(*command)[0] == 0
    assert (path / "metrics.csv").read_text() == before


def test_a_network_that_cannot_be_traced_trains_under_a_norm_that_needs_no_more(
    file: Path, normbench: Run
) -> None:
    code, _, err = normbench("train", "--norm", "gn", *settings("Looks"))
    assert code == 0, err
    assert "note: model Looks: torch.fx cannot trace the network" in err
    (path,) = (file.parent / "results" / "runs").glob("Looks-gn-*")
    assert "torch.fx cannot trace" in json.loads((path / "env.json").read_text())["remarks"][0]
    code, _, err = normbench("train", "--norm", "evonorm_s0", *settings("Looks"))
    assert code == 2
    assert "torch.fx cannot trace the network" in err.splitlines()[-1]


def test_it_is_known_by_its_name_its_file_s_content_and_its_options(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_id(*more: str) -> str:
        return resolve(compose(settings("Net", *more)))[0].run_id

    first = run_id()
    assert run_id("model.options.width=8") == first, "the default"
    assert run_id("model.options.width=9") != first
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file.rename(elsewhere / FILE)
    monkeypatch.chdir(elsewhere)
    assert run_id() == first
    (elsewhere / FILE).write_text(SOURCE + "\n# changed\n")
    assert run_id() != first


@pytest.mark.parametrize(("network", "kept"), [("Net", "conv1"), ("asks", "5")])
def test_two_norms_start_from_the_same_weights(file: Path, network: str, kept: str) -> None:
    def built(norm: str, seed: int = 0) -> dict[str, torch.Tensor]:
        options = resolve(compose(settings(network)))[0].model.options
        layers = Layers(norms.build(norm), seed)
        state = models.build(f"{FILE}:{network}", layers, 10, options=options).state_dict()
        return {
            key: value
            for key, value in state.items()
            if key.startswith(("conv", "fc", "0", "4", "5"))
        }

    before = torch.random.get_rng_state()
    bn, gn, other = built("bn"), built("gn"), built("bn", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {key: value.tolist() for key, value in bn.items()} == {
        key: value.tolist() for key, value in gn.items()
    }
    assert not torch.equal(bn[f"{kept}.weight"], other[f"{kept}.weight"])


def test_an_initial_scale_is_for_networks_that_ask_for_layers(file: Path, normbench: Run) -> None:
    config, _ = resolve(compose(settings("asks", "model.init_scale=3", "model.options.width=8")))
    assert (config.model.init_scale, config.model.options["options"]) == (3.0, {"width": 8})
    code, _, err = normbench("train", *settings("Net", "model.init_scale=3"))
    assert (code, len(err.splitlines())) == (2, 1)
    assert "model.init_scale=3: the network draws its weights itself; allowed: 1" in err


def test_a_network_that_asks_for_layers_gets_them(file: Path) -> None:
    options = resolve(compose(settings("asks")))[0].model.options
    model = models.build(f"{FILE}:asks", Layers(norms.build("frn"), 0), 10, options=options)
    assert [type(m).__name__ for m in model][1] == "ThresholdedFilterResponseNorm"


def test_a_parameter_layers_with_a_default_is_an_option_of_the_network(file: Path) -> None:
    file.write_text(SOURCE + "\n\ndef deep(num_classes, layers=2):\n    return Net(num_classes)\n")
    config, _ = resolve(compose(settings("deep", "model.options.layers=3")))
    assert config.model.options["options"] == {"layers": 3}


def test_a_network_of_a_package_is_built_with_any_options_it_takes() -> None:
    settings = [*SMALL, "model=torchvision.models:resnet18", "norm=gn", "norm.num_groups=32"]
    config, _ = resolve(compose([*settings, "model.options.zero_init_residual=true"]))
    assert config.run_id.startswith("resnet18-gn-b8-s0-")
    assert config.model.options["options"]["zero_init_residual"] is True
    assert Path(config.model.options["file"]).name == "resnet.py"


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("Nett", (), "unknown class of my_nets.py 'Nett': did you mean 'Net'"),
        ("Net", ("model.options.widht=3",), "did you mean 'model.options.width'"),
        ("Net", ("model.width=3",), "an own model's options are set as 'model.options.width'"),
        ("Net", ("model.options.width=wide",), "model.options.width"),
        ("Bare", (), "nothing to exchange: Bare has no norm"),
        ("Wide", (), r"it makes \(2, 8, 32, 32\) of 2 images, and needs to make \(2, 10\)"),
        ("Large", (), "cannot take images of 3x32x32: "),
        ("Fails", (), "NameError: name 'undefined_name' is not defined"),
        ("no_classes", (), "takes no num_classes"),
        ("number", (), "is to make an nn.Module, and made a int"),
        ("Net", ("norm=gn", "norm.num_groups=3"), "num_groups=3 does not divide 8 channels"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    file: Path, normbench: Run, name: str, more: tuple[str, ...], told: str
) -> None:
    import re

    code, _, err = normbench("train", *settings(name, *more))
    assert code == 2
    last = err.splitlines()[-1]
    assert re.search(told, last), err
    assert not (file.parent / "results").exists()


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("nowhere.py:Net", "model nowhere.py:Net: there is no file"),
        ("no_package.nets:Net", "there is no module 'no_package.nets' to import"),
        ("torchvision.models:resnet81", "unknown class of torchvision.models 'resnet81'"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(file: Path, model: str, told: str) -> None:
    with pytest.raises(NormbenchError, match=told):
        resolve(compose([f"model={model}", *SMALL]))


def test_a_sweep_has_own_networks_beside_built_in_ones(file: Path, normbench: Run) -> None:
    small = [setting for setting in tiny() if not setting.startswith("model")]
    code, out, err = normbench("sweep", f"model=normresnet,{FILE}:Net", *small, "--dry-run")
    assert code == 0, err
    assert "2 runs" in out


# Norms of features


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("norm", ["gn", "in", "none", "bn", "evonorm_b0", "ws_gn"])
def test_a_norm_on_features_is_left_as_it_is_and_told(normbench: Run, norm: str) -> None:
    code, _, err = normbench("train", "--norm", norm, *settings("WithHead"))
    assert code == 0, err
    told = "left, since they stand on features (n, c) and on no feature map: head.0 (BatchNorm1d)"
    assert f"note: model WithHead: {told}" in err
    layers = Layers(norms.build(norm), seed=0, image_shape=(3, 32, 32))
    model = models.build(f"{FILE}:WithHead", layers, 10, options={})
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(torch.nn.BatchNorm1d) == 1
    assert kinds.count(torch.nn.BatchNorm2d) == (2 if norm == "bn" else 0)


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("batch_size", [1, 47])  # of 48 images: the last batch has one
def test_a_batch_that_a_norm_of_features_cannot_take_is_refused_beforehand(
    normbench: Run, batch_size: int
) -> None:
    given = settings("WithHead", "norm=gn")
    given.remove("batch_size=8")
    code, _, err = normbench("train", *given, f"batch_size={batch_size}")
    assert (code, err.count("\n")) == (2, 1)
    assert f"model {FILE}:WithHead at batch 1: a BatchNorm that was left on features" in err
    assert normbench("train", *given, "batch_size=46")[0] == 0
    _, told, _ = normbench("models", f"{FILE}:WithHead", "--norm", "gn", "--batch-size", "1")
    assert "at batch size 1: refused: a BatchNorm that was left on features" in told


@pytest.mark.usefixtures("file")
def test_a_network_with_norms_of_features_alone_has_nothing_to_exchange(normbench: Run) -> None:
    code, _, err = normbench("train", "norm=gn", *settings("OnlyFeatures"))
    assert (code, err.count("\n")) == (2, 1)
    assert "nothing to exchange: the norms of OnlyFeatures stand on features (n, c)" in err
