"""Reads the user's own images from a folder of train/CLASS/*.png and test/CLASS/*.png.

A folder of CLASS/*.png alone is split by `test_fraction`.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from normbench.config.places import user_path
from normbench.data.cache import recall
from normbench.data.files import (
    entries,
    kind_of,
    read,
    require_file,
    require_printable,
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
from normbench.text import say

SUFFIXES = (".png", ".jpg", ".jpeg")
# Decoded images may take this share of the memory available.
MEMORY_SHARE = 0.75
GREY_MODES = ("1", "L", "LA", "I;16", "I")

Size = Annotated[int, Field(ge=1, le=4096)] | None
TestFraction = Annotated[float, Field(gt=0, lt=1)] | None


@sources.register("image_folder", title="Image folder")
def image_folder(
    home: DataHome, *, root: Root = None, size: Size = None, test_fraction: TestFraction = None
) -> Source:
    """Images in train/CLASS/ and test/CLASS/, or in CLASS/ (PNG or JPEG); named folder-NAME.

    size: height and width to which images of any size are resized and cropped around the centre;
    without it all are of one size. test_fraction: the share of every class in a folder of CLASS/
    alone that becomes the test set, always the same images.

    Raises NormbenchError for a missing or unreadable folder, for classes on only one side, names
    that cannot be printed, a damaged image, images of several sizes or of more than 16.8 million
    pixels, and on decoding for more images than memory holds. Grey and palette images become RGB.
    """
    if root is None:
        return recall("image_folder", home, {"size": size, "test_fraction": test_fraction})
    folder = user_path("data.root", root)
    if not folder.is_dir():
        raise NormbenchError(f"data.root: there is no folder '{root}'")
    real_folder = folder.resolve()
    require_printable(real_folder)
    classes, train, test = _sides(folder, test_fraction)
    parts = []
    for side, files in (("train", train), ("test", test)):
        parts += [(f"{side}/{path.parent.name}/{path.name}", path) for path in files]
    content = content_hash(parts, MAX_FILE_BYTES)
    if size is None:
        image_shape = image_shape_of(_encoded(train[0]), repr(str(train[0])))
    else:
        image_shape = (3, size, size)
        content = f"{content}-fit{size}"

    def decode() -> tuple[Split, Split]:
        _require_memory(len(train) + len(test), image_shape)
        modes: list[str] = []
        splits = decode_side(train, modes), decode_side(test, modes)
        num_grey = sum(mode in GREY_MODES for mode in modes)
        if num_grey:
            say(
                f"note: {num_grey:,} of {len(modes):,} images in '{folder}' are grey: "
                "each of the three channels has their values",
                to=sys.stderr,
            )
        return splits

    def decode_side(files: Sequence[Path], modes: list[str]) -> Split:
        images = decode_images(
            lambda index: _encoded(files[index]),
            [repr(str(path)) for path in files],
            image_shape,
            home.workers,
            is_fitted=size is not None,
            hint="; data.size=32 resizes and crops",
            on_mode=modes.append,
        )
        labels = np.array([classes.index(path.parent.name) for path in files], np.int64)
        return Split.of(images=images, labels=labels)

    return Source(
        name=f"folder-{real_folder.name}",
        content=content,
        classes=classes,
        image_shape=image_shape,
        num_train=len(train),
        num_test=len(test),
        decode=decode,
    )


def has_classes(folder: Path) -> bool:
    """Whether any folder in `folder` holds an image, as in a folder of CLASS/ alone."""
    folders = [path for path in entries(folder) if kind_of(path) == "a folder"]
    return any(path.suffix.lower() in SUFFIXES for each in folders for path in entries(each))


def _sides(
    folder: Path, test_fraction: float | None
) -> tuple[tuple[str, ...], list[Path], list[Path]]:
    """The classes, and the files of train and test, each by class and name."""
    given = f"data.test_fraction={test_fraction}"
    if (folder / "train").is_dir():
        if test_fraction is not None:
            raise NormbenchError(
                f"{given}: '{folder}' has a train/ of its own: leave the setting out"
            )
        classes = _common_classes(folder)
        return classes, _files(folder / "train", classes), _files(folder / "test", classes)
    if test_fraction is None:
        raise NormbenchError(
            f"data.root: there is no folder '{folder / 'train'}'; expected train/CLASS/*.png and "
            "test/CLASS/*.png; data.test_fraction=0.2 splits a folder of CLASS/*.png"
        )
    classes = _classes(folder)
    train: list[Path] = []
    test: list[Path] = []
    for name in classes:
        files = _files(folder, (name,))
        if len(files) < 2:
            raise NormbenchError(f"{given}: '{folder / name}' holds one image; needed are 2")
        number = min(max(round(test_fraction * len(files)), 1), len(files) - 1)
        # By name alone: every run on every machine tests on the same images, and a new image
        # moves hardly any other.
        chosen = {*sorted(files, key=_draw)[:number]}
        train += [path for path in files if path not in chosen]
        test += [path for path in files if path in chosen]
    return classes, train, test


def _draw(path: Path) -> str:
    """A number by which an image is drawn, as random as its class and name are many."""
    return hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).hexdigest()


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
            f"{needed:.3g} GiB of images ({num_images:,} of {size}): resize them with data.size; "
            f"at most {limit}"
        )
