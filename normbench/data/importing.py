"""Recognises, decodes and remembers the data at a path, for `normbench data import PATH`."""

from __future__ import annotations

from pathlib import Path

from normbench.data import DataHome, Dataset, sources
from normbench.data.cache import load, remember
from normbench.data.files import kind_of
from normbench.data.formats.cifar10 import is_cifar10
from normbench.data.formats.cifar10_parquet import has_parquet
from normbench.errors import NormbenchError


def import_data(path: Path, home: DataHome) -> tuple[str, Dataset]:
    """Decodes `path`; returns its new name (`data=NAME`) and the data set.

    Raises NormbenchError where `path` is missing or no source reads it.
    """
    name = recognise(path)
    source = sources.build(name, home, options={"root": str(path)})
    dataset = load(source, home)
    # `data=cifar10` finds the decoded images by their published checksum.
    if name != "cifar10":
        remember(name, path, source, home)
    return name, dataset


def recognise(path: Path) -> str:
    """The name of the source that reads `path`: cifar10, cifar10_parquet or image_folder."""
    if not path.exists():
        raise NormbenchError(f"there is nothing at {str(path)!r}")
    if is_cifar10(path):
        return "cifar10"
    kind = kind_of(path)
    if kind not in ("a file", "a folder"):
        raise NormbenchError(f"{str(path)!r} is {kind}; it must be a file or a folder")
    if path.is_dir() and has_parquet(path):
        return "cifar10_parquet"
    if (path / "train").is_dir():
        return "image_folder"
    raise NormbenchError(
        f"{str(path)!r} is none of: cifar-10-python.tar.gz, cifar-10-binary.tar.gz, their folders, "
        "a folder of train-*.parquet and test-*.parquet, a folder of train/CLASS/ and test/CLASS/ "
        "images"
    )
