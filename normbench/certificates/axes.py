"""The sets of axes over which a layer's output has a property such as mean 0."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from normbench.certificates.cells import AXES

# A split divides y, of shape (n, c, h, w) or of tokens (n, c, t), into parts: (groups of samples,
# groups of channels, whether each place is a part of its own).
Split = tuple[int, int, bool]


def finest(y: Tensor, error: Callable[[Tensor], Tensor]) -> tuple[str, ...]:
    """Names the finest splits of y with an error of at most 0.001 in every part, as "c/4 h w".

    error: the property's error of each part, from parts with their values along the last axis.
    """
    n, c = y.shape[:2]
    splits: list[Split] = [(i, j, False) for i in _divisors(n) for j in _divisors(c)]
    splits.append((n, 1, True))
    holding = [split for split in splits if error(_parts(y, split)).abs().max() < 1e-3]
    names = []
    for split in holding:
        if not any(_is_finer(candidate, split) for candidate in holding):
            names.append(_name(y, split))
    return tuple(names)


def whitened_groups(y: Tensor) -> str:
    """Names the largest groups of channels with the identity as covariance, to 0.001; "-" if none.

    y: (n, c, *places). Groups of one channel do not count.
    """
    channels = y.shape[1]
    rows = y.detach().transpose(0, 1).flatten(1)
    for number in _divisors(channels)[:-1]:
        groups = rows.reshape(number, channels // number, -1)
        centred = groups - groups.mean(-1, keepdim=True)
        covariance = centred @ centred.mT / centred.shape[-1]
        identity = torch.eye(covariance.shape[-1], dtype=y.dtype)
        if (covariance - identity).abs().max() < 1e-3:
            return f"c/{number}" if number > 1 else "c"
    return "-"


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _parts(y: Tensor, split: Split) -> Tensor:
    """y with the values of each part along the last axis."""
    samples, channels, by_place = split
    if by_place:
        return y.movedim(1, -1)
    n, c = y.shape[:2]
    grouped = y.reshape(samples, n // samples, channels, c // channels, -1)
    return grouped.transpose(1, 2).flatten(2)


def _is_finer(first: Split, second: Split) -> bool:
    divides = first[0] % second[0] == 0 and first[1] % second[1] == 0
    return first != second and divides and first[2] >= second[2]


def _name(y: Tensor, split: Split) -> str:
    samples, channels, by_place = split
    n = {len(y): "", 1: "n "}.get(samples, f"n/{samples} ")
    c = {y.shape[1]: "", 1: "c "}.get(channels, f"c/{channels} ")
    places = " ".join(AXES[y.dim()][2:])
    return f"{n}{c}{'' if by_place else places}".strip()
