"""Residual blocks: two convolutions whose result is added to their input.

`residual_init` says how the branches begin. `skipinit` and `fixup` are made for networks without
norms, where nothing else sets the scale of a branch.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from normbench.errors import NormbenchError
from normbench.models.layers import Layers
from normbench.models.sites import PLACEHOLDER

Shortcut = Literal["pad", "projection"]
ResidualInit = Literal["plain", "zero_last_gamma", "skipinit", "fixup"]


class Block(nn.Module):
    """A residual block: y = act(shortcut(x) + scale(branch(x))).

    x of shape (n, c, h, w), y of shape (n, c', h / stride, w / stride).
    """

    def __init__(
        self, branch: nn.Module, scale: nn.Module, shortcut: nn.Module, act: nn.Module
    ) -> None:
        super().__init__()
        self.branch = branch
        self.scale = scale
        self.shortcut = shortcut
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        # Norms run in the order in which they were made: the shortcut's after the branch's.
        branch = self.scale(self.branch(x))
        y: Tensor = self.act(self.shortcut(x) + branch)
        return y


class PadShortcut(nn.Module):
    """Shortcut without parameters: every `stride`-th pixel, and zeros for the new channels.

    (n, c, h, w) to (n, out_channels, h / stride, w / stride). Option A of He et al.
    (arXiv:1512.03385, section 4.2).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.num_added = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        before = self.num_added // 2
        x = x[:, :, :: self.stride, :: self.stride]
        return pad(x, (0, 0, 0, 0, before, self.num_added - before))


class Scale(nn.Module):
    """Product with a learned number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Shift(nn.Module):
    """Sum with a learned number, at first 0."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


class Blocks:
    """Makes the residual blocks of a network, in the forward order.

    num_blocks: of the whole network, which fixup's initial scale depends on. Raises NormbenchError
    for fixup with a norm, and for zero_last_gamma with a norm that has no gamma.
    """

    def __init__(
        self, layers: Layers, num_blocks: int, shortcut: Shortcut, residual_init: ResidualInit
    ) -> None:
        if residual_init == "fixup" and not layers.spec.is_none and layers.spec is not PLACEHOLDER:
            raise NormbenchError(
                "model.residual_init=fixup is for networks without norms: norm=none"
            )
        self.layers = layers
        self.num_blocks = num_blocks
        self.shortcut = shortcut
        self.init = residual_init

    def block(
        self, in_channels: int, out_channels: int, *, stride: int, is_last_stage: bool
    ) -> nn.Module:
        """Conv 3x3, norm, act, conv 3x3, norm, and the shortcut from the block's input."""
        make = self._fixup_branch if self.init == "fixup" else self._branch
        branch = make(in_channels, out_channels, stride, is_last_stage)
        scale: nn.Module = nn.Identity()
        if self.init in ("skipinit", "fixup"):
            # SkipInit (arXiv:2002.10444, section 3): every branch begins as 0. Fixup's begins as 0
            # by its last convolution, and is scaled by 1.
            scale = Scale(0.0 if self.init == "skipinit" else 1.0)
        shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            shortcut = self._shortcut(in_channels, out_channels, stride)
        return Block(branch, scale, shortcut, self.layers.act())

    def _branch(
        self, in_channels: int, out_channels: int, stride: int, is_last_stage: bool
    ) -> nn.Module:
        layers = self.layers
        return nn.Sequential(
            layers.conv(in_channels, out_channels, 3, stride=stride),
            layers.norm_act(out_channels, is_block_start=not is_last_stage),
            layers.conv(out_channels, out_channels, 3),
            layers.norm(
                out_channels,
                zero_gamma=self.init == "zero_last_gamma",
                is_block_start=False,
            ),
        )

    def _fixup_branch(
        self, in_channels: int, out_channels: int, stride: int, is_last_stage: bool
    ) -> nn.Module:
        """The branch of Fixup (arXiv:1901.09321, section 3): scaled weights, and shifts.

        The first convolution has He's standard deviation sqrt(2 / fan_in) (arXiv:1502.01852,
        equation 10) times num_blocks^(-1 / 2), the last begins as 0. The convolutions keep the
        biases that the paper has not.
        """
        layers = self.layers
        first = layers.conv(in_channels, out_channels, 3, stride=stride)
        last = layers.conv(out_channels, out_channels, 3)
        assert isinstance(first, nn.Conv2d), "a network without norms has plain convolutions"
        with torch.no_grad():
            # torch draws with standard deviation sqrt(1 / (3 fan_in)).
            first.weight.mul_(math.sqrt(6 / self.num_blocks))
            for parameter in last.parameters():
                parameter.zero_()
        act = layers.norm_act(out_channels)
        return nn.Sequential(Shift(), first, Shift(), act, Shift(), last, Shift())

    def _shortcut(self, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        if self.shortcut == "pad":
            return PadShortcut(in_channels, out_channels, stride)
        return nn.Sequential(
            self.layers.conv(in_channels, out_channels, 1, stride=stride),
            self.layers.norm(out_channels, is_block_start=False),
        )


def zero_head(head: nn.Module) -> None:
    """Lets a linear layer begin as 0, as Fixup has the classifier."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
