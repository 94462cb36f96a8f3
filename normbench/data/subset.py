"""Chooses samples from seeded streams: balanced subsets and a held-out part.

A split without "labels" counts as a single class, so its samples are chosen uniformly.
"""

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
    """Returns the data set with at most `num_train` and `num_test` samples, classes balanced.

    Raises NormbenchError where a class has too few samples.
    """
    train = _limit(dataset.train, "train", num_train, seed)
    test = _limit(dataset.test, "test", num_test, seed)
    return replace(dataset, train=train, test=test)


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Cuts the split in two, the second with `fraction` of every class.

    Raises NormbenchError where a part would be empty.
    """
    classes = _classes(split)
    quotas = [round(fraction * size) for size in np.bincount(classes)]
    held = _choose(classes, quotas, stream(seed, "val"))
    rest = np.setdiff1d(np.arange(len(split)), held)
    if not len(held) or not len(rest):
        left = f"{len(rest)} images to train and {len(held)} to validate"
        raise NormbenchError(f"data.val_fraction={fraction} leaves {left}")
    return split.take(rest), split.take(held)


def _limit(split: Split, side: str, count: int | None, seed: int) -> Split:
    if count is None:
        return split
    classes = _classes(split)
    sizes = np.bincount(classes)
    # The first classes take what does not divide evenly.
    quotas = [len(part) for part in np.array_split(np.arange(count), len(sizes))]
    for label, (quota, size) in enumerate(zip(quotas, sizes, strict=True)):
        if quota > size:
            taken = f"takes {quota} images of each class, class {label} has {size}"
            raise NormbenchError(f"data.limit_{side}={count} {taken}")
    return split.take(_choose(classes, quotas, stream(seed, "limit", side)))


def _classes(split: Split) -> NDArray[np.int64]:
    """The class of each sample, shape (n,)."""
    return split.arrays.get("labels", np.zeros(len(split), np.int64))


def _choose(
    classes: NDArray[np.int64], quotas: Sequence[int], generator: torch.Generator
) -> NDArray[np.int64]:
    """Ascending indices of `quotas[label]` random samples of each class."""
    chosen = []
    for label, quota in enumerate(quotas):
        members = np.flatnonzero(classes == label)
        order = torch.randperm(len(members), generator=generator).numpy()
        chosen.append(members[order[:quota]])
    return np.sort(np.concatenate(chosen))
