"""Reads the user's own images from a folder of train/CLASS/*.png and test/CLASS/*.png."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from normbench.data.cache import recall
from normbench.data.files import (
    entries,
    kind_of,
    read,
    require_file,
    require_printable,
    user_path,
)
from normbench.data.formats.images import (
    MAX_FILE_BYTES,
    Shape,
    content_hash,
    decode_images,
    image_shape_of,
)
from normbench.data.source import DataHome, Root, Source, Split, sources
from normbench.environment import available_memory_gib
from normbench.errors import NormbenchError

SUFFIXES = (".png", ".jpg", ".jpeg")
# Decoded images may take this share of the memory available.
MEMORY_SHARE = 0.75


@sources.register("image_folder", title="Image folder")
def image_folder(home: DataHome, *, root: Root = None) -> Source:
    """Images in train/CLASS/ and test/CLASS/ (PNG or JPEG, all of one size); named folder-NAME.

    Raises NormbenchError for a missing or unreadable folder, for classes on only one side, names
    that cannot be printed, a damaged image, images of several sizes or of more than 16.8 million
    pixels, and on decoding for more images than memory holds. Grey and palette images become RGB.
    """
    if root is None:
        return recall("image_folder", home)
    folder = user_path("data.root", root)
    if not folder.is_dir():
        raise NormbenchError(f"data.root: there is no folder '{root}'")
    real_folder = folder.resolve()
    require_printable(real_folder)
    classes = _common_classes(folder)
    train = _files(folder / "train", classes)
    test = _files(folder / "test", classes)
    parts = ((path.relative_to(folder).as_posix(), path) for path in [*train, *test])
    image_shape = image_shape_of(_encoded(train[0]), repr(str(train[0])))

    def decode() -> tuple[Split, Split]:
        _require_memory(len(train) + len(test), image_shape)
        return decode_side(train), decode_side(test)

    def decode_side(files: Sequence[Path]) -> Split:
        places = [repr(str(path)) for path in files]
        images = decode_images(
            lambda index: _encoded(files[index]), places, image_shape, home.workers
        )
        labels = np.array([classes.index(path.parent.name) for path in files], np.int64)
        return Split.of(images=images, labels=labels)

    return Source(
        name=f"folder-{real_folder.name}",
        content=content_hash(parts, MAX_FILE_BYTES),
        classes=classes,
        image_shape=image_shape,
        num_train=len(train),
        num_test=len(test),
        decode=decode,
    )


def _common_classes(folder: Path) -> tuple[str, ...]:
    """The classes of both sides, sorted by name: a label is a place in this order."""
    classes, others = _classes(folder / "train"), _classes(folder / "test")
    if classes != others:
        odd = ", ".join(sorted(set(classes) ^ set(others)))
        rule = "train/ and test/ must have the same classes; only on one side"
        raise NormbenchError(f"'{folder}': {rule}: {odd}")
    return classes


def _classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        expected = "expected train/CLASS/*.png and test/CLASS/*.png"
        raise NormbenchError(f"data.root: there is no folder '{folder}'; {expected}")
    folders = [path for path in entries(folder) if kind_of(path) == "a folder"]
    if len(folders) < 2:
        raise NormbenchError(f"'{folder}': {len(folders)} class folders; at least 2 are needed")
    for path in folders:
        require_printable(path)
    return tuple(path.name for path in folders)


def _files(folder: Path, classes: tuple[str, ...]) -> list[Path]:
    files: list[Path] = []
    for name in classes:
        found = [path for path in entries(folder / name) if path.suffix.lower() in SUFFIXES]
        if not found:
            raise NormbenchError(f"'{folder / name}' holds no image ({', '.join(SUFFIXES)})")
        for path in found:
            require_printable(path)
            require_file(path, MAX_FILE_BYTES)
        files += found
    return files


def _encoded(path: Path) -> bytes:
    return read(path, MAX_FILE_BYTES)


def _require_memory(num_images: int, image_shape: Shape) -> None:
    """Raises NormbenchError for images whose pixels take too much of the memory available."""
    needed = num_images * math.prod(image_shape) / 2**30
    available = available_memory_gib()
    if needed > MEMORY_SHARE * available:
        size = f"{image_shape[2]}x{image_shape[1]}"
        limit = f"{MEMORY_SHARE * available:.3g} GiB, {MEMORY_SHARE:.0%} of the available memory"
        raise NormbenchError(
            f"{needed:.3g} GiB of images ({num_images:,} of {size}): resize them; at most {limit}"
        )
