"""Reads CIFAR-10 in the Hugging Face layout.

The files are plain_text/{train,test}-*.parquet with columns img and label.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from normbench.data.cache import recall
from normbench.data.formats.cifar10 import CLASSES
from normbench.data.formats.images import content_hash, decode_images
from normbench.data.source import DataHome, Root, Source, Split, sources
from normbench.errors import NormbenchError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

ROWS = {"train": 50_000, "test": 10_000}
IMAGE_SHAPE = (3, 32, 32)
# The first bytes of every JPEG file.
JPEG = b"\xff\xd8\xff"


@sources.register("cifar10_parquet", title="CIFAR-10 (parquet)")
def cifar10_parquet(home: DataHome, *, root: Root = None) -> Source:
    """CIFAR-10 from a folder of parquet files; JPEG bytes are a lossy copy, named cifar10-jpeg.

    Raises NormbenchError for a missing folder or file, other columns, another number of rows,
    labels outside 0 to 9, or a damaged image.
    """
    if root is None:
        return recall("cifar10_parquet", home)
    files = {split: _parquet_files(Path(root).expanduser(), split) for split in ROWS}
    lossy = _first_image(files["train"][0]).startswith(JPEG)
    # The place in the order and not the path: a renamed folder holds the same data.
    parts = []
    for split, paths in files.items():
        parts += [(f"{split}/{place}", path.read_bytes()) for place, path in enumerate(paths)]

    def decode_split(split: str) -> Split:
        return _decode_split(files[split], split, home.workers)

    return Source(
        name="cifar10-jpeg" if lossy else "cifar10",
        content=content_hash(parts),
        classes=CLASSES,
        image_shape=IMAGE_SHAPE,
        num_train=ROWS["train"],
        num_test=ROWS["test"],
        decode=lambda: (decode_split("train"), decode_split("test")),
    )


def _parquet_files(root: Path, split: str) -> list[Path]:
    if not root.is_dir():
        raise NormbenchError(f"data.root: there is no folder '{root}'")
    for folder in (root / "plain_text", root):
        files = sorted(folder.glob(f"{split}-*.parquet"))
        if files:
            return files
    raise NormbenchError(f"data.root: no {split}-*.parquet in '{root}' or its plain_text/")


def _decode_split(files: list[Path], split: str, workers: int) -> Split:
    encoded: list[bytes | None] = []
    places: list[str] = []
    columns = []
    for path in files:
        with _opened(path) as file:
            table = file.read(columns=["img", "label"])
        encoded += table["img"].combine_chunks().field("bytes").to_pylist()
        places += [f"image {row} of '{path}'" for row in range(len(table))]
        # A missing label becomes -1, which is refused below like any other wrong label.
        columns.append(table["label"].fill_null(-1).to_numpy())
    labels = np.concatenate(columns).astype(np.int64)
    if len(labels) != ROWS[split]:
        found = f"{len(labels)} {split} rows, CIFAR-10 has {ROWS[split]}"
        raise NormbenchError(f"'{files[0].parent}': {found}")
    present = np.unique(labels).tolist()
    if present != list(range(len(CLASSES))):
        raise NormbenchError(f"'{files[0]}': labels {present}, CIFAR-10 has 0 to 9")
    images = decode_images(encoded, places, IMAGE_SHAPE, workers)
    return Split.of(images=images, labels=labels)


def _first_image(path: Path) -> bytes:
    """The bytes of the first image; empty where the row is missing, which decoding reports."""
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size=1, columns=["img"]):
            return batch["img"].field("bytes").to_pylist()[0] or b""
    return b""


@contextmanager
def _opened(path: Path) -> Iterator[ParquetFile]:
    """Opens a file of the expected columns. Raises NormbenchError where reading fails."""
    # Imported here: only this source pays for pyarrow.
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            kinds = {field.name: field.type for field in file.schema_arrow}
            image = kinds.get("img", pyarrow.null())
            label = kinds.get("label", pyarrow.null())
            has_bytes = pyarrow.types.is_struct(image) and image.get_field_index("bytes") >= 0
            if not has_bytes or not pyarrow.types.is_integer(label):
                given = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
                expected = "expected img: struct<bytes, path>, label: int64"
                raise NormbenchError(f"'{path}' has columns {given}; {expected}")
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise NormbenchError(f"'{path}' is not a readable parquet file: {reason}") from None
