"""Choosing images: balanced subsets and a held-out part, from seeded streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from normbench.data.source import Dataset, Split
from normbench.errors import NormbenchError
from normbench.seeds import stream


def limit(dataset: Dataset, num_train: int | None, num_test: int | None, seed: int) -> Dataset:
    """The data set with at most so many images a side, classes balanced."""
    return replace(
        dataset,
        train=_limit(dataset.train, "train", num_train, seed),
        test=_limit(dataset.test, "test", num_test, seed),
    )


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """The split in two, the second with `fraction` of every class. Raises NormbenchError if a part would be empty."""
    classes = _classes(split)
    quotas = [round(fraction * size) for size in np.bincount(classes)]
    held = _choose(classes, quotas, stream(seed, "val"))
    rest = np.setdiff1d(np.arange(len(split)), held)
    if not len(held) or not len(rest):
        raise NormbenchError(
            f"data.val_fraction={fraction} leaves {len(rest)} images to train and {len(held)} to validate"
        )
    return split.take(rest), split.take(held)


def _limit(split: Split, side: str, count: int | None, seed: int) -> Split:
    if count is None:
        return split
    classes = _classes(split)
    sizes = np.bincount(classes)
    quotas = [count // len(sizes) + (label < count % len(sizes)) for label in range(len(sizes))]
    if short := [label for label, quota in enumerate(quotas) if quota > sizes[label]]:
        needed, there = quotas[short[0]], sizes[short[0]]
        raise NormbenchError(
            f"data.limit_{side}={count} takes {needed} images of each class, class {short[0]} has {there}"
        )
    return split.take(_choose(classes, quotas, stream(seed, "limit", side)))


def _classes(split: Split) -> NDArray[np.int64]:
    """The class of each sample, shape (n,); one and the same where a split has no labels."""
    return split.arrays.get("labels", np.zeros(len(split), np.int64))


def _choose(
    classes: NDArray[np.int64], quotas: Sequence[int], generator: torch.Generator
) -> NDArray[np.int64]:
    """Ascending indices of `quotas[label]` random samples of each class."""
    chosen = []
    for label, quota in enumerate(quotas):
        members = np.flatnonzero(classes == label)
        chosen.append(members[torch.randperm(len(members), generator=generator).numpy()[:quota]])
    return np.sort(np.concatenate(chosen))
