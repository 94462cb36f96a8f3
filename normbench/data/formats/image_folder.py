"""One's own images: a folder with train/CLASS/*.png and test/CLASS/*.png."""

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
    """Images in train/CLASS/ and test/CLASS/ (PNG or JPEG, all of one size); the data name is folder-NAME.

    Raises NormbenchError for a missing folder, classes that differ between the two sides, a damaged image, or images of
    several sizes. Grey and palette images become RGB.
    """
    if root is None:
        return recall("image_folder", home)
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise NormbenchError(f"data.root: there is no folder '{root}'")
    classes = _classes(folder / "train")
    if (test_classes := _classes(folder / "test")) != classes:
        odd = ", ".join(sorted(set(classes) ^ set(test_classes)))
        raise NormbenchError(
            f"'{folder}': train/ and test/ must have the same classes; only on one side: {odd}"
        )
    files = {split: _files(folder / split, classes) for split in ("train", "test")}
    image_shape = _image_shape(files["train"][0])
    return Source(
        name=f"folder-{folder.resolve().name}",
        content=content_hash(
            (p.relative_to(folder).as_posix(), p.read_bytes()) for s in files for p in files[s]
        ),
        classes=classes,
        image_shape=image_shape,
        num_train=len(files["train"]),
        num_test=len(files["test"]),
        decode=lambda: (
            _decode_split(files["train"], classes, image_shape, home.workers),
            _decode_split(files["test"], classes, image_shape, home.workers),
        ),
    )


def _classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise NormbenchError(
            f"data.root: there is no folder '{folder}'; expected train/CLASS/*.png and test/CLASS/*.png"
        )
    classes = tuple(
        sorted(
            path.name
            for path in folder.iterdir()
            if path.is_dir() and not path.name.startswith(".")
        )
    )
    if len(classes) < 2:
        raise NormbenchError(f"'{folder}': {len(classes)} class folders; at least 2 are needed")
    return classes


def _files(folder: Path, classes: tuple[str, ...]) -> list[Path]:
    files: list[Path] = []
    for name in classes:
        found = sorted(path for path in (folder / name).iterdir() if _is_image(path))
        if not found:
            raise NormbenchError(f"'{folder / name}' holds no image ({', '.join(SUFFIXES)})")
        files += found
    return files


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _image_shape(path: Path) -> tuple[int, int, int]:
    try:
        with Image.open(path) as image:
            return (3, image.height, image.width)
    except (OSError, Image.DecompressionBombError):
        raise NormbenchError(f"'{path}' is damaged: it cannot be decoded as an image") from None


def _decode_split(
    files: list[Path], classes: tuple[str, ...], image_shape: tuple[int, int, int], workers: int
) -> Split:
    encoded = [path.read_bytes() for path in files]
    labels = np.array([classes.index(path.parent.name) for path in files], np.int64)
    images = decode_images(encoded, image_shape, lambda i: f"'{files[i]}'", workers)
    return Split.of(images=images, labels=labels)
