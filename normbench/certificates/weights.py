"""Facts about a norm's convolution weights, at the smallest and the largest fan-in of NormResNet.

Filters of the larger fan-in have the smaller weights, beside which eps counts for more.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from normbench.certificates.probes import (
    IMAGE_CHANNELS,
    SEEN,
    block_of,
    close,
    fresh,
    images,
    settled,
)
from normbench.norms import NormSpec
from normbench.norms.spec import Shape

# Channels before a 3x3 convolution; the fan-in is nine times as large.
INPUTS = (IMAGE_CHANNELS, 256)

# A fact of a block that was trained on some batches, for inputs x.
Fact = Callable[[nn.Module, Tensor], bool]


def fan_ins(spec: NormSpec, shape: Shape, fact: Fact, *, late: bool) -> tuple[int, ...]:
    """Those of the fan-ins 27 and 2304 at which the fact holds, of blocks for this layer shape.

    The linear layers of tokens have the fan-ins 3 and 256.
    """
    holding = []
    for channels in INPUTS:
        block = copy.deepcopy(_block(spec, shape, channels, late))
        if fact(block, images(shape, channels=channels)):
            holding.append(block[0].weight[0].numel())  # type: ignore[index]
    return tuple(holding)


@lru_cache(maxsize=len(INPUTS))
def _block(spec: NormSpec, shape: Shape, channels: int, late: bool) -> nn.Module:
    """A block trained on some batches, kept for the next fact."""
    seen = [images(shape, seed=seed, channels=channels) for seed in SEEN]
    return settled(block_of(spec, shape, channels=channels), *seen, late=late)


def standardizes(block: nn.Module, x: Tensor) -> bool:
    """Whether all filters of the convolution have mean 0 and the same variance."""
    filters = block[0].weight.detach().flatten(1)  # type: ignore[index]
    means, variances = filters.mean(1), filters.var(1, correction=0)
    alike = close(variances, variances.mean().expand_as(variances))
    return alike and close(means, torch.zeros_like(means))


def ignores_scale(block: nn.Module, x: Tensor) -> bool:
    """Whether three times the learned weight (weight norm: v) leaves the output unchanged."""
    scaled = copy.deepcopy(block)
    with torch.no_grad():
        for parameter in scaled[0].parameters():  # type: ignore[index]
            if parameter.dim() > 1 and parameter[0].numel() > 1:
                parameter.mul_(3)
    return close(fresh(block, x), fresh(scaled, x))
