"""normbench.convert: loaded when asked for, for own norms too, and what it says."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.networks import Block, CallsItself, PreActivation, stem
from torch import nn

import normbench
from normbench.errors import NormbenchError

SHAPE = (3, 8, 8)


def test_importing_normbench_does_not_load_torch_and_asking_for_convert_does() -> None:
    code = (
        "import sys, normbench; assert 'torch' not in sys.modules; "
        "assert callable(normbench.convert); assert 'torch' in sys.modules; "
        "assert not hasattr(normbench, 'converts')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_exchange_says_for_every_norm_what_stood_there_and_what_stands_there_now() -> None:
    made = normbench.convert(stem(Block()), "frn", image_shape=SHAPE)
    assert str(made.normbench_exchange).splitlines() == [
        "1 (8x8x8, after 0, before ReLU): BatchNorm2d and ReLU -> ThresholdedFilterResponseNorm; "
        "eps 1e-05 -> 1e-06",
        "3.bn1 (8x8x8, after 3.conv1, before ReLU): BatchNorm2d and ReLU -> "
        "ThresholdedFilterResponseNorm; eps 1e-05 -> 1e-06",
        "3.bn2 (8x8x8, after 3.conv2): BatchNorm2d -> FilterResponseNorm; eps 1e-05 -> 1e-06",
    ]


def test_the_page_shows_what_the_record_says() -> None:
    page = (Path(__file__).parents[3] / "docs" / "convert.md").read_text()
    example = page.split("```python\n")[1].split("```")[0]
    shown = page.split("```\n\n```\n")[1].split("\n...")[0]
    # Nothing is downloaded: values as after training stand for the pretrained ones.
    example = example.replace('weights="IMAGENET1K_V2"', "weights=None")
    made = example.replace("model = normbench", "learned(model)\nmodel = normbench")
    scope: dict[str, Any] = {"learned": learned, "print": lambda record: None}
    exec(made, scope)
    assert list(scope["model"].normbench_exchange.lines())[:2] == shown.splitlines()


def learned(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)


def test_a_site_that_gets_no_bias_says_so() -> None:
    made = normbench.convert(stem(PreActivation()), "rms", image_shape=SHAPE)
    first, second, third = made.normbench_exchange.sites
    assert first.remarks[-1] == third.remarks[-1] == "the layer before has a bias now"
    assert second.remarks[-1] == "no convolution or linear layer alone feeds it: no bias before it"
    assert [site.feeder for site in (first, second, third)] == ["0", None, "3.conv1"]


def test_norms_that_no_image_reaches_or_that_are_not_known_are_named() -> None:
    model = stem(Block(), UnknownNorm())
    model.unused = nn.Module()
    model.unused.norm = nn.BatchNorm2d(3)
    made = normbench.convert(Wrapped(model), "gn", image_shape=SHAPE)
    assert made.normbench_exchange.remarks == (
        "left, since no image reaches them: body.unused.norm",
        "left, since they are no norms that are known: body.4",
    )


class UnknownNorm(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.std()


class Wrapped(nn.Module):
    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in list(self.body.children())[:-1]:
            x = part(x)
        return x


def test_an_own_norm_with_its_options_stands_in_a_network(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\n"
        "class Mine(nn.BatchNorm2d):\n"
        "    def __init__(self, num_features: int, scale: float = 1.0) -> None:\n"
        "        super().__init__(num_features)\n"
        "        self.scale = scale\n"
    )
    made = normbench.convert(stem(Block()), f"{path}:Mine", image_shape=SHAPE, scale=0.5)
    assert [type(made[1]).__name__, made[1].scale] == ["Mine", 0.5]


def test_a_network_that_is_a_norm_alone_is_exchanged() -> None:
    made = normbench.convert(nn.BatchNorm2d(3), "gn", image_shape=SHAPE, num_groups=3)
    assert type(made).__name__ == "GroupNorm"
    assert len(made.normbench_exchange.sites) == 1


def test_a_rewritten_network_is_pickled_as_a_whole() -> None:
    model = normbench.convert(CallsItself(), "frn", image_shape=SHAPE)
    x = torch.randn(2, *SHAPE)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(x), model(x))
    with pytest.raises(AssertionError, match="specialized to have value None"):
        again(x, scale=2.0)
    # torch.fx traces as before.
    assert normbench.models.exchange.find(CallsItself(), SHAPE).traced is not None
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))


def test_a_norm_that_only_training_reaches_is_exchanged_and_statistics_stay() -> None:
    model = Auxiliary()
    before = model.norm.running_mean.clone()
    made = normbench.convert(model, "bn_custom", image_shape=SHAPE)
    assert [site.name for site in made.normbench_exchange.sites] == ["auxiliary", "norm"]
    assert torch.equal(made.norm.running_mean, before)
    assert made.auxiliary.training


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.auxiliary, self.norm = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            x = x + self.auxiliary(x)
        return self.norm(x + 5)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"norm": None}, "norm is to be a name"),
        ({"norm": nn.GroupNorm}, "norm is to be a name"),
        ({"image_shape": 32}, "image_shape is to be"),
        ({"image_shape": (32, 32)}, "image_shape is to be"),
        ({"image_shape": "abc"}, "image_shape is to be"),
        ({"batch_size": 0}, "batch_size is to be"),
        ({"batch_size": "x"}, "batch_size is to be"),
    ],
)
def test_wrong_arguments_are_refused_in_a_line(given: dict[str, Any], told: str) -> None:
    arguments: dict[str, Any] = {"norm": "gn", "image_shape": SHAPE} | given
    with pytest.raises(NormbenchError, match=told):
        normbench.convert(stem(Block()), **arguments)


def test_the_record_tells_weights_and_what_is_no_norm_without_its_activation() -> None:
    made = normbench.convert(stem(nn.Identity()), "ws_gn", image_shape=SHAPE)
    assert "acts on the weights of 0" in made.normbench_exchange.sites[0].remarks
    alone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Tanh())
    made = normbench.convert(alone, "evonorm_s0", image_shape=SHAPE)
    (site,) = made.normbench_exchange.sites
    assert "nothing is normalized" in site.remarks[-1]
