"""What stands around a norm: only what feeds it, or follows it, and nothing else."""

from __future__ import annotations

import pytest
import torch
from kit.networks import conv
from torch import Tensor, nn

import normbench
from normbench.models.exchange import find

SHAPE = (3, 8, 8)


class Forked(nn.Module):
    """A convolution, norm and ReLU; what comes after one of them is used a second time, too."""

    def __init__(self, fork: str) -> None:
        super().__init__()
        self.conv, self.skipped, self.norm = conv(3), nn.Identity(), nn.BatchNorm2d(8)
        self.relu, self.fork = nn.ReLU(), fork

    def forward(self, x: Tensor) -> Tensor:
        fed = self.conv(x)
        normed = self.norm(self.skipped(fed))
        y = self.relu(self.skipped(normed))
        if self.fork == "conv_twice":
            return y + self.conv(x + 1)
        return y + {"fed": fed, "normed": normed, "activated": y}[self.fork]


@pytest.mark.parametrize(
    ("fork", "is_fed", "is_followed"),
    [
        ("activated", True, True),
        ("fed", False, True),
        ("conv_twice", False, True),
        ("normed", True, False),
    ],
)
def test_a_layer_or_activation_that_something_else_shares_is_none_of_the_norm_s(
    fork: str, is_fed: bool, is_followed: bool
) -> None:
    model = Forked(fork)
    (norm,) = find(model, SHAPE).norms
    assert (norm.around.feeder is model.conv) == is_fed
    assert (norm.around.feeder is None) == (not is_fed)
    assert norm.activation == ("ReLU" if is_followed else None)
    made = normbench.convert(model, "frn", image_shape=SHAPE)
    assert isinstance(made.relu, nn.Identity) == is_followed
    made(torch.zeros(1, *SHAPE))
    biased = normbench.convert(Forked(fork), "none", image_shape=SHAPE)
    assert (biased.conv.bias is not None) == is_fed
