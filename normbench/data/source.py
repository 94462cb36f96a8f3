"""Defines the nouns of data: Source (promised), Dataset (decoded), Split (one side of a Dataset).

Each source is a registered function `(home, *, options) -> Source` in a file of `formats/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from normbench.registry import Registry

# The option `data.root`: a folder or file of the user's.
Root = Annotated[str, Field(min_length=1)] | None


# eq=False: comparing arrays by == gives an array, and a Split is passed on, never compared.
@dataclass(frozen=True, eq=False)
class Split:
    """Holds named arrays of one length n, one row for each sample.

    images: uint8 of shape (n, 3, height, width), normalized by a loader; labels: int64 of shape
    (n,), read where a subset is balanced. Arrays of further names pass through cache and loader.
    Raises ValueError for no array and for arrays of several lengths.
    """

    arrays: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"the arrays of a split must have one length, not {lengths}")

    @classmethod
    def of(cls, **arrays: NDArray[Any]) -> Split:
        """Makes a split from keywords: `Split.of(images=images, labels=labels)`."""
        return cls(arrays)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def take(self, indices: NDArray[np.int64]) -> Split:
        """Returns a split of the samples at `indices`, in the order of `indices`."""
        return Split({name: array[indices] for name, array in self.arrays.items()})


@dataclass(frozen=True)
class Dataset:
    """Holds a decoded data set under its data name."""

    name: str
    train: Split
    test: Split


@dataclass(frozen=True)
class Source:
    """Describes a data set before any pixel is read.

    name: data name in tables and captions (`cifar10-jpeg`); content: hash of the data to decode,
    part of a run's id; image_shape: (3, height, width); decode: reads and checks every sample,
    returns train and test.
    """

    name: str
    content: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    num_train: int
    num_test: int
    decode: Callable[[], tuple[Split, Split]]


@dataclass(frozen=True)
class DataHome:
    """Says where data lie on a machine and how to fetch data; changes no number of a run."""

    cache_dir: Path
    mirrors: tuple[str, ...] = ()
    workers: int = 2


sources: Registry[Source] = Registry("data")
