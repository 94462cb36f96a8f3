"""Encoded images into one uint8 array: what the parquet and folder sources share."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from normbench.errors import NormbenchError


def decode_images(
    encoded: Sequence[bytes],
    image_shape: tuple[int, int, int],
    describe: Callable[[int], str],
    workers: int,
) -> NDArray[np.uint8]:
    """The images as RGB, shape (n, 3, height, width); `describe(i)` names the i-th one in an error.

    Raises NormbenchError for a damaged image or one of another size, saying which. Pillow decodes outside the
    interpreter lock, so threads help.
    """
    images = np.empty((len(encoded), *image_shape), np.uint8)

    def decode(index: int) -> None:
        images[index] = _pixels(encoded[index], image_shape, lambda: describe(index))

    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(decode, range(len(encoded))):
            pass
    return images


def _pixels(
    encoded: bytes, image_shape: tuple[int, int, int], describe: Callable[[], str]
) -> NDArray[np.uint8]:
    _, height, width = image_shape
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise NormbenchError(f"{describe()} is damaged: it cannot be decoded as an image") from None
    if pixels.shape != (height, width, 3):
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise NormbenchError(
            f"{describe()} is {size} pixels, the others {width}x{height}: all images must have one size"
        )
    return pixels.transpose(2, 0, 1)


def content_hash(parts: Iterable[tuple[str, bytes]]) -> str:
    """An identity for named pieces of data: sha256 over the names and contents in the order given."""
    digest = hashlib.sha256()
    for name, content in parts:
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return f"sha256-{digest.hexdigest()}"
