"""Reads the user's own images from a folder of train/CLASS/*.png and test/CLASS/*.png."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from normbench.data.cache import recall
from normbench.data.formats.images import content_hash, decode_images
from normbench.data.source import DataHome, Root, Source, Split, sources
from normbench.errors import NormbenchError

SUFFIXES = (".png", ".jpg", ".jpeg")


@sources.register("image_folder", title="Image folder")
def image_folder(home: DataHome, *, root: Root = None) -> Source:
    """Images in train/CLASS/ and test/CLASS/ (PNG or JPEG, all of one size); named folder-NAME.

    Raises NormbenchError for a missing folder, for classes on only one side, a damaged image, or
    images of several sizes. Grey and palette images become RGB.
    """
    if root is None:
        return recall("image_folder", home)
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise NormbenchError(f"data.root: there is no folder '{root}'")
    classes = _common_classes(folder)
    train = _files(folder / "train", classes)
    test = _files(folder / "test", classes)
    parts = ((path.relative_to(folder).as_posix(), path.read_bytes()) for path in [*train, *test])
    image_shape = _image_shape(train[0])

    def decode_side(files: list[Path]) -> Split:
        encoded = [path.read_bytes() for path in files]
        places = [f"'{path}'" for path in files]
        images = decode_images(encoded, places, image_shape, home.workers)
        labels = np.array([classes.index(path.parent.name) for path in files], np.int64)
        return Split.of(images=images, labels=labels)

    return Source(
        name=f"folder-{folder.resolve().name}",
        content=content_hash(parts),
        classes=classes,
        image_shape=image_shape,
        num_train=len(train),
        num_test=len(test),
        decode=lambda: (decode_side(train), decode_side(test)),
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
    classes = tuple(sorted(path.name for path in folder.glob("[!.]*/")))
    if len(classes) < 2:
        raise NormbenchError(f"'{folder}': {len(classes)} class folders; at least 2 are needed")
    return classes


def _files(folder: Path, classes: tuple[str, ...]) -> list[Path]:
    files: list[Path] = []
    for name in classes:
        # Some systems leave hidden files such as ._cat.png beside the images.
        visible = sorted((folder / name).glob("[!.]*"))
        found = [path for path in visible if path.suffix.lower() in SUFFIXES and path.is_file()]
        if not found:
            raise NormbenchError(f"'{folder / name}' holds no image ({', '.join(SUFFIXES)})")
        files += found
    return files


def _image_shape(path: Path) -> tuple[int, int, int]:
    try:
        # Opening reads the header only.
        with Image.open(path) as image:
            return (3, image.height, image.width)
    except (OSError, Image.DecompressionBombError):
        raise NormbenchError(f"'{path}' is damaged: it cannot be decoded as an image") from None
