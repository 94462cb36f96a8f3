"""Decodes and identifies image files, for the parquet and folder sources."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from normbench.errors import NormbenchError

Shape = tuple[int, int, int]


def decode_images(
    encoded: Sequence[bytes | None], places: Sequence[str], image_shape: Shape, workers: int
) -> NDArray[np.uint8]:
    """Decodes PNG or JPEG bytes to RGB, uint8 of shape (n, 3, height, width).

    Raises NormbenchError with the place of an image that is missing, damaged, or of another size.
    """
    images = np.empty((len(encoded), *image_shape), np.uint8)

    def decode(index: int) -> None:
        images[index] = _pixels(encoded[index], places[index], image_shape)

    # Pillow decodes outside the interpreter lock, so threads help.
    with ThreadPoolExecutor(workers) as pool:
        # Only reading the results raises what a thread raised.
        list(pool.map(decode, range(len(encoded))))
    return images


def _pixels(encoded: bytes | None, place: str, image_shape: Shape) -> NDArray[np.uint8]:
    _, height, width = image_shape
    if encoded is None:
        raise NormbenchError(f"{place} is empty")
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise NormbenchError(f"{place} is damaged: it cannot be decoded as an image") from None
    if pixels.shape != (height, width, 3):
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise NormbenchError(
            f"{place} is {size} pixels, the others {width}x{height}: all images must have one size"
        )
    return pixels.transpose(2, 0, 1)


def content_hash(parts: Iterable[tuple[str, bytes]]) -> str:
    """Hashes names and contents, in the order given, into `sha256-HEX`: the data's identity."""
    digest = hashlib.sha256()
    for name, content in parts:
        # The length keeps two parts from hashing like one part of both contents.
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return f"sha256-{digest.hexdigest()}"
