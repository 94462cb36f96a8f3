"""CIFAR-10 as a folder in the Hugging Face layout: plain_text/{train,test}-*.parquet with columns img and label."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normbench.data.cache import recall
from normbench.data.formats.cifar10 import CLASSES
from normbench.data.formats.images import content_hash, decode_images
from normbench.data.source import DataHome, Root, Source, Split, sources
from normbench.errors import NormbenchError

if TYPE_CHECKING:
    import pyarrow

ROWS = {"train": 50_000, "test": 10_000}
IMAGE_SHAPE = (3, 32, 32)
JPEG = b"\xff\xd8\xff"


@sources.register("cifar10_parquet", title="CIFAR-10 (parquet)")
def cifar10_parquet(home: DataHome, *, root: Root = None) -> Source:
    """CIFAR-10 from a folder of parquet files; JPEG bytes are a lossy copy and are named cifar10-jpeg.

    Raises NormbenchError for a missing folder or file, other columns, another number of rows, labels outside 0 to 9,
    or a damaged image.
    """
    if root is None:
        return recall("cifar10_parquet", home)
    files = {split: parquet_files(Path(root).expanduser(), split) for split in ROWS}
    parts = (
        (f"{split}/{i}", path.read_bytes()) for split in ROWS for i, path in enumerate(files[split])
    )
    lossy = _first_image(files["train"][0]).startswith(JPEG)
    return Source(
        name="cifar10-jpeg" if lossy else "cifar10",
        content=content_hash(parts),
        classes=CLASSES,
        image_shape=IMAGE_SHAPE,
        num_train=ROWS["train"],
        num_test=ROWS["test"],
        decode=lambda: (
            _decode_split(files["train"], "train", home.workers),
            _decode_split(files["test"], "test", home.workers),
        ),
    )


def parquet_files(root: Path, split: str) -> list[Path]:
    """The parquet files of a split, in `root` or in its plain_text/ folder."""
    if not root.is_dir():
        raise NormbenchError(f"data.root: there is no folder '{root}'")
    for folder in (root / "plain_text", root):
        if files := sorted(folder.glob(f"{split}-*.parquet")):
            return files
    raise NormbenchError(f"data.root: no {split}-*.parquet in '{root}' or its plain_text/")


def _decode_split(files: list[Path], split: str, workers: int) -> Split:
    tables = [_read(path) for path in files]
    encoded = [
        image
        for table in tables
        for image in table["img"].combine_chunks().field("bytes").to_pylist()
    ]
    labels = np.concatenate([table["label"].fill_null(-1).to_numpy() for table in tables]).astype(
        np.int64
    )
    places = [
        f"image {row} of '{path}'"
        for path, table in zip(files, tables, strict=True)
        for row in range(len(table))
    ]
    if len(labels) != ROWS[split]:
        raise NormbenchError(
            f"'{files[0].parent}': {len(labels)} {split} rows, CIFAR-10 has {ROWS[split]}"
        )
    if set(np.unique(labels)) != set(range(len(CLASSES))):
        raise NormbenchError(
            f"'{files[0]}': labels {np.unique(labels).tolist()}, CIFAR-10 has 0 to 9"
        )
    if missing := [place for place, image in zip(places, encoded, strict=True) if not image]:
        raise NormbenchError(f"{missing[0]} is empty")
    images = decode_images(encoded, IMAGE_SHAPE, places.__getitem__, workers)
    return Split.of(images=images, labels=labels)


def _first_image(path: Path) -> bytes:
    """The bytes of the first image; nothing where there is none, which decoding will name."""
    import pyarrow.parquet

    _check_columns(path)
    first = next(
        pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1, columns=["img"]), None
    )
    images = first["img"].to_pylist() if first is not None else []
    return images[0]["bytes"] or b"" if images and images[0] else b""


def _read(path: Path) -> pyarrow.Table:
    import pyarrow
    import pyarrow.parquet

    _check_columns(path)
    try:
        return pyarrow.parquet.read_table(path, columns=["img", "label"])
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def _check_columns(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None
    kinds: dict[str, Any] = {name: schema.field(name).type for name in schema.names}
    image, label = kinds.get("img", pyarrow.null()), kinds.get("label", pyarrow.null())
    has_bytes = pyarrow.types.is_struct(image) and "bytes" in [field.name for field in image]
    if not has_bytes or not pyarrow.types.is_integer(label):
        given = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise NormbenchError(
            f"'{path}' has columns {given}; expected img: struct<bytes, path>, label: int64"
        )


def _unreadable(path: Path, error: Exception) -> NormbenchError:
    return NormbenchError(f"'{path}' is not a readable parquet file: {str(error).splitlines()[0]}")
