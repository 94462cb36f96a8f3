"""Describes decoded data in a folder of the cache, and tells whether they are as they were written.

The manifest vouches for the arrays by their sha256, and for itself by a checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from normbench.checksums import digest_of, unsealed
from normbench.data.files import read, require_file
from normbench.data.source import Source, Split

# Raised by every change to the files of a folder: older folders are then decoded again.
FORMAT: Literal[2] = 2
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 2**24
MAX_ARRAY_BYTES = 2**50


class Manifest(BaseModel):
    """Says what a folder's arrays are; `sha256` is by file name without suffix (train_images).

    The fields of a Source as JSON has them, with types checked: anybody may have written the file.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    format: Literal[2] = FORMAT
    name: str
    content: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    num_train: int
    num_test: int
    sha256: dict[Annotated[str, Field(pattern=r"^(train|test)_\w+$")], str]

    def source(self, decode: Callable[[], tuple[Split, Split]]) -> Source:
        """The source that was decoded; `decode` is called where the arrays are lost."""
        return Source(**self.model_dump(exclude={"format", "sha256"}), decode=decode)


@dataclass(frozen=True)
class Decoded:
    """Holds the manifest of an intact folder and its arrays, mapped into memory."""

    manifest: Manifest
    train: Split
    test: Split


def folder_name(name: str, content: str) -> str:
    """The name of the folder for the decoded data of a source."""
    return f"{name}-{short_hash(content)}"


def short_hash(content: str) -> str:
    """The first 12 hexadecimal digits of the content's hash."""
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def intact(folder: Path) -> Decoded | None:
    """The decoded data of a folder whose manifest and arrays are as they were written, or None."""
    try:
        fields = unsealed(json.loads(read(folder / MANIFEST, MAX_MANIFEST_BYTES)))
        manifest = Manifest.model_validate_json(json.dumps(fields))
        _require(folder.name == folder_name(manifest.name, manifest.content))
        train = _split(folder, "train", manifest.num_train, manifest)
        test = _split(folder, "test", manifest.num_test, manifest)
        return Decoded(manifest, train, test)
    # A damaged file makes a parser raise anything: TypeError, RecursionError, OverflowError, ...
    # Whatever it was, the data are decoded again.
    except Exception:
        return None


def _split(folder: Path, side: str, num_samples: int, manifest: Manifest) -> Split:
    arrays = {}
    for stem in sorted(manifest.sha256):
        if stem.startswith(f"{side}_"):
            array = _mapped(folder / f"{stem}.npy", manifest.sha256[stem])
            arrays[stem.removeprefix(f"{side}_")] = array
    split = Split(arrays)
    _require(len(split) == num_samples)
    shapes = {
        "images": (np.dtype(np.uint8), manifest.image_shape),
        "labels": (np.dtype(np.int64), ()),
    }
    for name in shapes.keys() & arrays.keys():
        _require((arrays[name].dtype, arrays[name].shape[1:]) == shapes[name])
    return split


def _mapped(path: Path, sha256: str) -> NDArray[Any]:
    size = require_file(path, MAX_ARRAY_BYTES)
    # Mode c copies a page on writing: torch asks for writable memory, no file changes.
    array = open_memmap(path, mode="c")
    # Before hashing: a sparse file may claim a terabyte.
    _require(size == array.offset + array.nbytes)
    _require(digest_of(path) == sha256)
    return array


def _require(is_right: bool) -> None:
    if not is_right:
        raise ValueError("not as it was written")
