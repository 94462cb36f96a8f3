"""Refusals of inputs of shape (n, c, *places) that leave a statistic a single value."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from normbench.norms.spec import Refusal, Shape


def one_value_per_channel(shape: Shape) -> Refusal | None:
    """Refuses a single value per channel, for statistics over batch and places."""
    samples, _, *places = shape
    if samples * prod(places) > 1:
        return None
    return Refusal("one value per channel has no variance: a batch of 1 on a 1x1 map")


def one_pixel(shape: Shape) -> Refusal | None:
    """Refuses maps of a single place, for statistics over places."""
    if prod(shape[2:]) > 1:
        return None
    return Refusal("one value per sample and channel has no variance: a 1x1 map")


def one_channel(shape: Shape) -> Refusal | None:
    """Refuses a single channel, for statistics over the channels of each place."""
    if shape[1] > 1:
        return None
    return Refusal("one channel has no variance over channels")


def one_value_per_sample(shape: Shape) -> Refusal | None:
    """Refuses a single value per sample, for statistics over channels and places."""
    if prod(shape[1:]) > 1:
        return None
    return Refusal("one value per sample has no variance")


def groups(num_groups: int) -> Callable[[Shape], Refusal | None]:
    """Refuses groups of unequal size or of one value, for statistics over groups of channels."""

    def refuse(shape: Shape) -> Refusal | None:
        _, channels, *places = shape
        if channels % num_groups:
            return Refusal(f"num_groups={num_groups} does not divide {channels} channels")
        if channels // num_groups * prod(places) > 1:
            return None
        left = f"num_groups={num_groups} leaves one value per group"
        return Refusal(f"{left}: {channels} channels on a 1x1 map")

    return refuse
