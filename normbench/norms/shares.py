"""The shares that mixed norms learn: how much of each of their parts a layer has come to use."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from normbench.errors import NormbenchError

NAME = re.compile(r"[a-z0-9_]+")


@runtime_checkable
class Mixed(Protocol):
    """A layer that tells shares of itself, from 0 to 1, by name; the names are always the same."""

    def learned_shares(self) -> Mapping[str, Tensor | float]:
        """The shares under the layer's weights of now."""


def mean_shares(model: nn.Module) -> dict[str, float]:
    """The mean of each share over the model's layers that tell it, by name; {} without such layers.

    Raises NormbenchError for a share that is not from 0 to 1, and for a name with other characters
    than small letters, digits and underscores.
    """
    told: dict[str, list[float]] = defaultdict(list)
    for layer in model.modules():
        if isinstance(layer, Mixed):
            for name, share in layer.learned_shares().items():
                told[name].append(_checked(type(layer).__name__, name, float(share)))
    return {name: fmean(shares) for name, shares in told.items()}


def _checked(layer: str, name: str, share: float) -> float:
    if not NAME.fullmatch(name):
        raise NormbenchError(
            f"learned_shares of {layer} has the name {name!r}; "
            "allowed: small letters, digits and underscores"
        )
    if not -1e-6 <= share <= 1 + 1e-6:
        raise NormbenchError(
            f"learned_shares of {layer}: {name} is {share:g}; allowed: from 0 to 1"
        )
    return share
