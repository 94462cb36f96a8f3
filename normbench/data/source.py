"""What a data source is: its identity without reading the pixels, and how to decode them.

The names here are all the rest of the program knows of data: `Source` (promised), `Dataset` (decoded), `Split` (half
of it). Each source is a registered function `(home, *, options) -> Source` in a file of its own.
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

Root = Annotated[str, Field(min_length=1)] | None  # the folder a source reads, as its option


@dataclass(frozen=True, eq=False)
class Split:
    """Named arrays of one length n, such as those of a classification.

    images: uint8 of shape (n, 3, height, width), which a loader normalizes; labels: int64 of shape
    (n,), which balance a subset. Arrays of any other name pass through loader, subset and cache.
    Raises ValueError for no array, or for arrays of several lengths.
    """

    arrays: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"the arrays of a split must have one length, not {lengths}")

    @classmethod
    def of(cls, **arrays: NDArray[Any]) -> Split:
        """`Split.of(images=images, labels=labels)`."""
        return cls(arrays)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def take(self, indices: NDArray[np.int64]) -> Split:
        """The samples at `indices`, of every array."""
        return Split({name: array[indices] for name, array in self.arrays.items()})


@dataclass(frozen=True)
class Dataset:
    """A decoded data set under its data name; `content` identifies its bytes wherever they came from."""

    name: str
    content: str
    classes: tuple[str, ...]
    train: Split
    test: Split


@dataclass(frozen=True)
class Source:
    """A data set that can be decoded.

    name: data name for tables and captions (`cifar10-jpeg`); content: hash of what will be decoded, part of a run's
    id; image_shape: (3, height, width); decode: reads and checks everything, returns it in memory.
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
    """Where data lives on this machine and how it may be fetched: never changes a number."""

    cache_dir: Path
    mirrors: tuple[str, ...] = ()
    workers: int = 2


sources: Registry[Source] = Registry("data")
