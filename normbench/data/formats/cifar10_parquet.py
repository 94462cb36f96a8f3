"""Reads CIFAR-10 in the Hugging Face layout.

The files are plain_text/{train,test}-*.parquet with columns img and label.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from normbench.config.places import user_path
from normbench.data.cache import recall
from normbench.data.files import entries, printable
from normbench.data.formats.cifar10 import CLASSES
from normbench.data.formats.images import JPEG, content_hash, decode_images
from normbench.data.source import DataHome, Root, Source, Split, sources
from normbench.errors import NormbenchError

if TYPE_CHECKING:
    from pyarrow import Schema
    from pyarrow.parquet import ParquetFile

ROWS = {"train": 50_000, "test": 10_000}
IMAGE_SHAPE = (3, 32, 32)
# Of a file, and of a split's columns before compression: the training images take 0.12 GiB.
MAX_BYTES = 2**30
# The column of encoded images within the struct img.
IMAGE_BYTES = "img.bytes"


@sources.register("cifar10_parquet", title="CIFAR-10 (parquet)")
def cifar10_parquet(home: DataHome, *, root: Root = None) -> Source:
    """CIFAR-10 from a folder of parquet files; JPEG bytes are a lossy copy, named cifar10-jpeg.

    Raises NormbenchError for a missing folder or file, more than 1 GiB in a file, and on decoding
    for other columns, another number of rows, labels outside 0 to 9, or a damaged image.
    """
    if root is None:
        return recall("cifar10_parquet", home)
    folder = user_path("data.root", root)
    files = {split: _parquet_files(folder, split) for split in ROWS}
    # The place in the order and not the path: a renamed folder holds the same data.
    parts = []
    for split, paths in files.items():
        parts += [(f"{split}/{place}", path) for place, path in enumerate(paths)]
    content = content_hash(parts, MAX_BYTES)
    lossy = _first_image(files["train"][0]).startswith(JPEG)

    def decode_split(split: str) -> Split:
        return _decode_split(files[split], split, home.workers)

    return Source(
        name="cifar10-jpeg" if lossy else "cifar10",
        content=content,
        classes=CLASSES,
        image_shape=IMAGE_SHAPE,
        num_train=ROWS["train"],
        num_test=ROWS["test"],
        decode=lambda: (decode_split("train"), decode_split("test")),
    )


def has_parquet(folder: Path) -> bool:
    """Whether a folder holds files named as parquet, itself or in its plain_text/."""
    inner = folder / "plain_text"
    folders = [folder, inner] if inner.is_dir() else [folder]
    return any(path.suffix == ".parquet" for each in folders for path in entries(each))


def _parquet_files(root: Path, split: str) -> list[Path]:
    if not root.is_dir():
        raise NormbenchError(f"data.root: there is no folder '{root}'")
    for folder in (root / "plain_text", root):
        if not folder.is_dir():
            continue
        files = [path for path in entries(folder) if fnmatch(path.name, f"{split}-*.parquet")]
        if files:
            return files
    raise NormbenchError(f"data.root: no {split}-*.parquet in '{root}' or its plain_text/")


def _decode_split(files: list[Path], split: str, workers: int) -> Split:
    _require_footers(files, split)
    encoded: list[bytes | None] = []
    places: list[str] = []
    columns = []
    for path in files:
        images, targets = _read(path)
        encoded += images
        places += [f"image {row} of {str(path)!r}" for row in range(len(images))]
        columns.append(targets)
    labels = np.concatenate(columns)
    _require_rows(len(labels), split, files)
    present = np.unique(labels).tolist()
    if present != list(range(len(CLASSES))):
        shown = printable(str(present))
        raise NormbenchError(f"{str(files[0])!r}: labels {shown}, CIFAR-10 has 0 to 9")
    pixels = decode_images(encoded.__getitem__, places, IMAGE_SHAPE, workers)
    return Split.of(images=pixels, labels=labels)


def _require_footers(files: list[Path], split: str) -> None:
    """Raises NormbenchError for footers that claim other rows or too many bytes."""
    num_rows = num_bytes = 0
    for path in files:
        with _opened(path) as file:
            for group in map(file.metadata.row_group, range(file.num_row_groups)):
                num_rows += group.num_rows
                num_bytes += group.total_byte_size
    _require_rows(num_rows, split, files)
    if num_bytes > MAX_BYTES:
        claim = f"{num_bytes:,} bytes of {split} columns"
        raise NormbenchError(f"{str(files[0].parent)!r}: {claim}; at most {MAX_BYTES:,} are read")


def _require_rows(num_rows: int, split: str, files: list[Path]) -> None:
    if num_rows != ROWS[split]:
        found = f"{num_rows} {split} rows, CIFAR-10 has {ROWS[split]}"
        raise NormbenchError(f"{str(files[0].parent)!r}: {found}")


def _read(path: Path) -> tuple[list[bytes | None], NDArray[np.int64]]:
    """The encoded images and the labels of a file; a missing label is -1, a wrong one."""
    encoded: list[bytes | None] = []
    labels = [np.empty(0, np.int64)]
    with _opened(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=[IMAGE_BYTES, "label"])
            cells = table["img"].combine_chunks().field("bytes")
            # Repeated images share their bytes: a dictionary of one may stand for many gigabytes.
            different = cells.dictionary.to_pylist()
            for index in cells.indices.to_pylist():
                encoded.append(None if index is None else different[index])
            labels.append(table["label"].cast("int64").fill_null(-1).to_numpy())
    return encoded, np.concatenate(labels)


def _first_image(path: Path) -> bytes:
    """The bytes of the first image; empty where the row is missing, which decoding reports."""
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size=1, columns=[IMAGE_BYTES]):
            return batch["img"].field("bytes").to_pylist()[0] or b""
    return b""


@contextmanager
def _opened(path: Path) -> Iterator[ParquetFile]:
    """Opens a file of the expected columns. Raises NormbenchError where reading fails."""
    # Imported here: only this source pays for pyarrow.
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            _require_columns(file.schema_arrow, path)
            # Damaged bytes are found by the checksums of pages, where a writer has made them.
            options = {"read_dictionary": [IMAGE_BYTES], "page_checksum_verification": True}
            with ParquetFile(path, metadata=file.metadata, **options) as by_dictionary:
                yield by_dictionary
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = printable(" ".join(str(error).split()))
        raise NormbenchError(f"{str(path)!r} is not a readable parquet file: {reason}") from None


def _require_columns(schema: Schema, path: Path) -> None:
    """Raises NormbenchError but for one `img: struct<bytes: binary>` and one integer `label`."""
    from pyarrow import types

    kinds = {field.name: field.type for field in schema}
    image, label = kinds.get("img"), kinds.get("label")
    is_image = is_label = False
    if image is not None and types.is_struct(image) and image.get_field_index("bytes") >= 0:
        encoded = image.field("bytes").type
        is_image = types.is_binary(encoded) or types.is_large_binary(encoded)
    if label is not None:
        is_label = types.is_integer(label)
    # Of a name that occurs twice it is not known which column is meant.
    is_unique = len(kinds) == len(schema)
    if not (is_image and is_label and is_unique):
        given = printable(", ".join(f"{field.name}: {field.type}" for field in schema))
        expected = "expected img: struct<bytes, path>, label: int64"
        raise NormbenchError(f"{str(path)!r} has columns {given}; {expected}")
