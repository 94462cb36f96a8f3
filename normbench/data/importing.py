"""Recognises, decodes and remembers the data at a path, for `normbench data import PATH`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normbench.data import DataHome, Dataset, sources
from normbench.data.cache import load, remember
from normbench.data.files import kind_of
from normbench.data.formats.cifar10 import is_cifar10
from normbench.data.formats.cifar10_parquet import has_parquet
from normbench.data.formats.image_folder import has_classes
from normbench.errors import NormbenchError


def import_data(
    path: Path, home: DataHome, given: Mapping[str, Any] | None = None
) -> tuple[str, Dataset]:
    """Decodes `path`; returns its new name (`data=NAME`) and the data set.

    given: options of the source, as {"data.size": 32}.
    Raises NormbenchError where `path` is missing, no source reads it, or an option is wrong.
    """
    name = recognise(path)
    options = {}
    for key, value in (given or {}).items():
        section, _, option = key.partition(".")
        if section != "data" or option == "root":
            raise NormbenchError(
                f"'{key}': of settings data import takes those of the source alone"
            )
        options[option] = value
    source = sources.build(name, home, options={"root": str(path), **options})
    dataset = load(source, home)
    # `data=cifar10` finds the decoded images by their published checksum.
    if name != "cifar10":
        remember(name, path, source, home, options)
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
    if path.is_dir() and ((path / "train").is_dir() or has_classes(path)):
        return "image_folder"
    raise NormbenchError(
        f"{str(path)!r} is none of: cifar-10-python.tar.gz, cifar-10-binary.tar.gz, their folders, "
        "a folder of train-*.parquet and test-*.parquet, a folder of train/CLASS/ and test/CLASS/ "
        "images, or of CLASS/ images"
    )
