"""Style images: those drawn here, and the user's own; pictures resized, joined, and as PNG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from normbench.config.places import user_path
from normbench.data.files import read
from normbench.data.formats.images import MAX_FILE_BYTES, decode_images, image_shape_of
from normbench.errors import NormbenchError, unknown

SIZE = 256  # height and width of a drawn style image
PALETTES = {
    "dots": ((250, 243, 221), (217, 83, 79), (35, 87, 137), (241, 196, 15)),
    "stripes": ((23, 37, 84), (245, 158, 11), (253, 246, 227), (159, 18, 57)),
    "waves": ((6, 78, 59), (16, 185, 129), (236, 253, 245), (14, 116, 144)),
}
Bytes = NDArray[np.uint8]


def dots() -> NDArray[np.int64]:
    """Discs of three colours, which lie over one another."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    colours = np.zeros((SIZE, SIZE), np.int64)
    for number in range(90):
        row, column = draw.uniform(0, SIZE, 2)
        radius = draw.uniform(12, 36)
        inside = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        colours[inside] = 1 + number % 3
    return colours


def stripes() -> NDArray[np.int64]:
    """Diagonal stripes of several widths."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    draw = np.random.default_rng(0)
    order = draw.integers(0, 4, 2 * SIZE)
    widths = draw.integers(6, 24, 2 * SIZE)
    across = np.repeat(order, widths)
    found: NDArray[np.int64] = across[rows + columns]
    return found


def waves() -> NDArray[np.int64]:
    """Level lines of four plane waves."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    draw = np.random.default_rng(0)
    height = np.zeros((SIZE, SIZE))
    for angle, length in zip(draw.uniform(0, np.pi, 4), draw.uniform(70, 160, 4), strict=True):
        way = rows * np.sin(angle) + columns * np.cos(angle)
        height += np.sin(2 * np.pi * way / length)
    return np.floor(2 * height).astype(np.int64) % 4


DRAWN: dict[str, Callable[[], NDArray[np.int64]]] = {
    "dots": dots,
    "stripes": stripes,
    "waves": waves,
}


def style_file(style: str) -> Path | None:
    """The file that a style names; None for a drawn style.

    Raises NormbenchError for a name that is neither.
    """
    if style in DRAWN:
        return None
    path = user_path("task.style", style)
    if not path.exists():
        raise NormbenchError(f"{unknown('task.style', style, DRAWN)}, FILE.png, FILE.jpg")
    return path


def style_image(style: str) -> Bytes:
    """A style image, (3, height, width). Raises NormbenchError as `style_file`, `read_image`."""
    path = style_file(style)
    if path is not None:
        return read_image(path)
    colours = np.array(PALETTES[style], np.uint8)[DRAWN[style]()]
    return np.ascontiguousarray(colours.transpose(2, 0, 1))


def read_image(path: Path) -> Bytes:
    """The PNG or JPEG image in a file, (3, height, width). Raises NormbenchError for any other."""
    content = read(path, MAX_FILE_BYTES)
    place = repr(str(path))
    shape = image_shape_of(content, place)
    (image,) = decode_images(lambda _: content, [place], shape, workers=1)
    return np.asarray(image)


def resized(images: Bytes, size: int) -> Bytes:
    """Images (n, 3, h, w) as (n, 3, size, size): the shorter side resized, the longer cropped.

    Bilinear with antialiasing; the middle is kept.
    """
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    factor = size / min(height, width)
    new = round(height * factor), round(width * factor)
    top, left = (new[0] - size) // 2, (new[1] - size) // 2
    found = np.empty((len(images), 3, size, size), np.uint8)
    # An image at a time: all of them as floats would take four times their memory.
    for index, image in enumerate(images):
        floats = torch.from_numpy(np.array(image)).float()[None]
        larger = interpolate(floats, new, mode="bilinear", antialias=True)
        found[index] = to_bytes(larger / 127.5 - 1)[0][:, top : top + size, left : left + size]
    return found


def to_floats(images: Bytes) -> Tensor:
    """Pixels in [-1, 1], as networks of the style task take and make them."""
    return torch.from_numpy(np.array(images)).float() / 127.5 - 1


def to_bytes(images: Tensor) -> Bytes:
    """The nearest bytes of pixels in [-1, 1]; the inverse of `to_floats`."""
    levels = ((images.detach().float() + 1) * 127.5).round().clamp(0, 255)
    found: Bytes = levels.to(torch.uint8).cpu().numpy()
    return found


def side_by_side(images: Sequence[Bytes]) -> Bytes:
    """Images (3, h, w) of one height in a row, as a picture (h, widths, 3)."""
    return np.concatenate([*images], axis=2).transpose(1, 2, 0)


def png_of(picture: Bytes) -> bytes:
    """A picture (height, width, 3) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
