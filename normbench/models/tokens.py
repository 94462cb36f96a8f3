"""Layers of networks of tokens, x of shape (n, places, c)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

POSITION_DEVIATION = 0.02


class OnTokens(nn.Module):
    """A norm of maps on tokens: x of shape (n, places, c) as a map (n, c, places, 1).

    The map is a view of x, with the channels of a token side by side in memory.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.mT[..., None])
        return y[..., 0].mT


class Positions(nn.Module):
    """The sum of tokens with a learned vector for each place (arXiv:2010.11929, equation 1).

    Drawn normal with a standard deviation of 0.02, as by the paper's authors.
    """

    def __init__(self, num_places: int, num_features: int, generator: torch.Generator) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(num_places, num_features))
        nn.init.normal_(self.positions, std=POSITION_DEVIATION, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.positions.to(x.dtype)
