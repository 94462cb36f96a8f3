"""What a norm cannot work on: each of these says why an input of shape (n, c, h, w) is too small, or None."""

from __future__ import annotations

from collections.abc import Callable

from normbench.norms.spec import Shape


def one_value_per_channel(shape: Shape) -> str | None:
    """For statistics over (n, h, w)."""
    samples, _, height, width = shape
    if samples * height * width > 1:
        return None
    return "one value per channel has no variance: a batch of 1 on a 1x1 map"


def one_pixel(shape: Shape) -> str | None:
    """For statistics over (h, w)."""
    _, _, height, width = shape
    return (
        None
        if height * width > 1
        else "one value per sample and channel has no variance: a 1x1 map"
    )


def one_channel(shape: Shape) -> str | None:
    """For statistics over c, pixel by pixel."""
    return None if shape[1] > 1 else "one channel has no variance over channels"


def groups(num_groups: int) -> Callable[[Shape], str | None]:
    """For statistics over (c / num_groups, h, w)."""

    def refuse(shape: Shape) -> str | None:
        _, channels, height, width = shape
        if channels % num_groups:
            return f"num_groups={num_groups} does not divide {channels} channels"
        if channels // num_groups * height * width == 1:
            return f"num_groups={num_groups} leaves one value per group: {channels} channels on a 1x1 map"
        return None

    return refuse
