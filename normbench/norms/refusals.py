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


one_channel = single(lambda shape: shape[1], "one channel has no variance over channels")


def always(reason: str) -> Refuse:
    """Refuses every shape."""
    return lambda shape: Refusal(reason)


def first_of(*refusals: Refuse) -> Refuse:
    """Refuses what any of them refuses, with the reason of the first."""

    def refuse(shape: Shape) -> Refusal | None:
        for one in refusals:
            if (refusal := one(shape)) is not None:
                return refusal
        return None

    return refuse


def divides(num_groups: int) -> Refuse:
    """Refuses groups of channels of unequal size."""

    def refuse(shape: Shape) -> Refusal | None:
        channels = shape[1]
        if channels % num_groups == 0:
            return None
        return Refusal(f"num_groups={num_groups} does not divide {channels} channels")

    return refuse


def groups(num_groups: int) -> Refuse:
    """Refuses groups of unequal size or of one value, for statistics over groups of channels."""

    def one_value(shape: Shape) -> Refusal | None:
        channels = shape[1]
        reason = (
            f"num_groups={num_groups} leaves one value per group: {channels} channels on a 1x1 map"
        )
        return single(lambda shape: prod(shape[1:]) // num_groups, reason)(shape)

    return first_of(divides(num_groups), one_value)
