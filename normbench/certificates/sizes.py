"""What a norm adds to a network in numbers: parameters, state, bytes kept for the backward pass."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from normbench.certificates.probes import block_of, drawn, settled
from normbench.models import Layers, materialize
from normbench.norms import NormSpec
from normbench.timing.footprint import saved_bytes

CHANNELS = 16


def sizes(spec: NormSpec) -> tuple[str, str]:
    """How many parameters and state values the norm adds, as in "2 per channel + 1"."""
    parameters, state = [], []
    for channels, side in ((16, 4), (32, 4), (16, 8)):
        block = block_of(spec, (1, channels, side, side))
        plain = nn.Conv2d(3, channels, 3, bias=spec.conv_bias)
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


def saved_bytes_per_element(spec: NormSpec, *, late: bool) -> float:
    """Bytes that norm and activation keep for the backward pass, per float32 element of x."""
    shape = (4, CHANNELS, 32, 32)
    norm_act = settled(materialize(Layers(spec, seed=0).norm_act(CHANNELS), shape[1:]), late=late)
    x = drawn(*shape, dtype=torch.float32).requires_grad_()
    return round(saved_bytes(norm_act, x, list(norm_act.parameters())) / x.numel(), 1)
