"""What a norm adds to a network in numbers: parameters, state, bytes kept for the backward pass."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from normbench.certificates.probes import block_of, drawn, layer_of, settled
from normbench.models import Layers, materialize
from normbench.norms import NormSpec
from normbench.norms.spec import Shape
from normbench.timing.footprint import saved_bytes

CHANNELS = 16


def sizes(spec: NormSpec, *, tokens: bool = False) -> tuple[str, str]:
    """How many parameters and state values the norm adds, as in "2 per channel + 1".

    tokens: at a site of tokens instead of a map.
    """
    parameters, state = [], []
    for channels, side in ((16, 4), (32, 4), (16, 8)):
        plain: nn.Module = nn.Conv2d(3, channels, 3, bias=spec.conv_bias)
        shape: Shape = (1, channels, side, side)
        if tokens:
            plain, shape = nn.Linear(3, channels), (1, channels, side * side)
        block = block_of(spec, shape)
        parameters.append(_count(block.parameters()) - _count(plain.parameters()))
        state.append(_count(block.buffers()))
    return _growth(*parameters), _growth(*state)


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _growth(base: int, wider: int, larger: int) -> str:
    """A count's growth with channels and pixels, from counts of 16x4x4, 32x4x4 and 16x8x8."""
    if base == wider == 0:
        return "0"
    # 16 channels more; with values per pixel, 4x4 pixels a channel.
    number, unit = (wider - base) // 16, "per channel"
    if larger != base:
        number, unit = number // 16, "per channel and pixel"
    rest = base - (wider - base)
    if rest < 0:  # grows with the square, as matrices of whitening do
        squares = (wider - 2 * base) // (32**2 - 2 * 16**2)
        number = (base - squares * 16**2) // 16
        return f"{number} per channel + {squares} per pair of channels"
    return f"{number} {unit} + {rest}" if rest else f"{number} {unit}"


def saved_bytes_per_element(spec: NormSpec, *, late: bool, tokens: bool = False) -> float:
    """Bytes that norm and activation keep for the backward pass, per float32 element of x.

    tokens: at a site of tokens, which no activation follows, instead of a map.
    """
    shape: Shape = (4, CHANNELS, 32, 32)
    if tokens:
        shape = (4, CHANNELS, 32 * 32)
        layer = layer_of(spec, shape, torch.float32)
    else:
        layer = materialize(Layers(spec, seed=0).norm_act(CHANNELS), shape[1:])
    layer = settled(layer, late=late)
    x = drawn(*shape, dtype=torch.float32).requires_grad_()
    return round(saved_bytes(layer, x, list(layer.parameters())) / x.numel(), 1)
