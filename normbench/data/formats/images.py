"""Decodes and identifies image files, for the parquet and folder sources."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from normbench.data.files import reading, require_file
from normbench.errors import NormbenchError
from normbench.text import bars, hides_bars

Shape = tuple[int, int, int]

# The first bytes of every file of the format.
PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
# Pixels of an image, 4096 x 4096, and bytes of its file.
MAX_PIXELS = 2**24
MAX_FILE_BYTES = 2**28
CHUNK = 2**20
BAR_SECONDS = 0.5  # until a bar is shown


def decode_images(
    read: Callable[[int], bytes | None],
    places: Sequence[str],
    image_shape: Shape,
    workers: int,
    *,
    is_fitted: bool = False,
    hint: str = "",
    on_mode: Callable[[str], object] | None = None,
) -> NDArray[np.uint8]:
    """Decodes PNG or JPEG bytes to RGB, uint8 of shape (n, 3, height, width).

    `read` gives the bytes of the image at an index; `places` names the n images.
    is_fitted: images of any size are turned as their EXIF says, resized until they cover
    `image_shape`, and cropped around the centre; hint: the end of the line about another size.
    on_mode: called with Pillow's mode of every image, as "L" of a grey one.

    Raises NormbenchError with the place of an image that is missing, damaged, or of another size;
    the size is read in the header, before memory is spent on pixels.
    """
    images = np.empty((len(places), *image_shape), np.uint8)

    def decode(index: int) -> None:
        with _opened(read(index), places[index]) as image:
            if on_mode is not None:
                on_mode(image.mode)
            if is_fitted:
                images[index] = _fitted(image, image_shape)
            else:
                images[index] = _pixels(image, places[index], image_shape, hint)

    options = {"desc": "decoding", "unit": " images", "leave": False, "delay": BAR_SECONDS}
    bar = bars()(total=len(places), disable=hides_bars(), **options)
    # Pillow decodes outside the interpreter lock, so threads help.
    with ThreadPoolExecutor(workers) as pool, bar:
        # Only reading the results raises what a thread raised.
        for _ in pool.map(decode, range(len(places))):
            bar.update()
    return images


def image_shape_of(encoded: bytes, place: str) -> Shape:
    """The shape (3, height, width) that the header of an image claims.

    Raises NormbenchError for more than MAX_PIXELS pixels.
    """
    with _opened(encoded, place) as image:
        return (3, image.height, image.width)


def content_hash(files: Iterable[tuple[str, Path]], most: int) -> str:
    """Hashes names and contents, in the order given, into `sha256-HEX`: the data's identity.

    A file is hashed piece by piece. Raises NormbenchError for a file of more than `most` bytes.
    """
    digest = hashlib.sha256()
    for name, path in files:
        size = require_file(path, most)
        # The length keeps two parts from hashing like one part of both contents.
        digest.update(f"{name}\0{size}\0".encode())
        with reading(path), path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return f"sha256-{digest.hexdigest()}"


def _pixels(image: ImageFile, place: str, image_shape: Shape, hint: str) -> NDArray[np.uint8]:
    _, height, width = image_shape
    if image.size != (width, height):
        size = f"{image.width}x{image.height}"
        rule = f"the others {width}x{height}: all images must have one size{hint}"
        raise NormbenchError(f"{place} is {size} pixels, {rule}")
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _fitted(image: ImageFile, image_shape: Shape) -> NDArray[np.uint8]:
    _, height, width = image_shape
    # Palettes have no colours between two entries: RGB before resizing.
    upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(ImageOps.fit(upright, (width, height))).transpose(2, 0, 1)


@contextmanager
def _opened(encoded: bytes | None, place: str) -> Iterator[ImageFile]:
    """Opens a PNG or JPEG image, of which only the header is read.

    Raises NormbenchError where there is none.

    Image.open would ask each of its forty formats, one of which starts Ghostscript, and its limit
    on pixels is a warning and a variable of the whole process.
    """
    if encoded is None:
        raise NormbenchError(f"{place} is empty")
    reader = PngImageFile if encoded.startswith(PNG) else JpegImageFile
    try:
        with reader(io.BytesIO(encoded)) as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width}x{image.height}"
                raise NormbenchError(f"{place} is {size} pixels; at most {MAX_PIXELS:,} are read")
            yield image
    except (NormbenchError, MemoryError):
        raise
    # Pillow raises whatever its parsers stumble over: struct.error, TypeError, IndexError, ...
    except Exception:
        raise NormbenchError(
            f"{place} is damaged: it cannot be decoded as a PNG or JPEG image"
        ) from None
