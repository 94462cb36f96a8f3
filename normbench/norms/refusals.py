"""Refusals of inputs of shape (n, c, *places) that leave a statistic a single value."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from normbench.norms.spec import Refusal, Shape

Refuse = Callable[[Shape], Refusal | None]


def single(num_values: Callable[[Shape], int], reason: str) -> Refuse:
    """Refuses shapes where a statistic runs over a single value, whose variance is 0."""

    def refuse(shape: Shape) -> Refusal | None:
        return Refusal(reason) if num_values(shape) == 1 else None

    return refuse


one_value_per_channel = single(
    lambda shape: shape[0] * prod(shape[2:]),
    "one value per channel has no variance: a batch of 1 on a 1x1 map",
)
one_pixel = single(
    lambda shape: prod(shape[2:]), "one value per sample and channel has no variance: a 1x1 map"
)


def groups(num_groups: int) -> Refuse:
    """Refuses groups of unequal size or of one value, for statistics over groups of channels."""

    def refuse(shape: Shape) -> Refusal | None:
        channels = shape[1]
        if channels % num_groups:
            return Refusal(f"num_groups={num_groups} does not divide {channels} channels")
        reason = (
            f"num_groups={num_groups} leaves one value per group: {channels} channels on a 1x1 map"
        )
        return single(lambda shape: prod(shape[1:]) // num_groups, reason)(shape)

    return refuse
