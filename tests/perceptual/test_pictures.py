"""Style images and pictures: sizes, bytes, files, and refusals."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from kit.styles import image_file
from PIL import Image

from normbench.errors import NormbenchError
from normbench.perceptual.pictures import (
    DRAWN,
    png_of,
    read_image,
    resized,
    side_by_side,
    style_image,
    to_bytes,
    to_floats,
)


@pytest.mark.parametrize("name", DRAWN)
def test_a_drawn_style_is_the_same_image_every_time_with_several_colours(name: str) -> None:
    first, second = style_image(name), style_image(name)
    assert np.array_equal(first, second)
    assert first.shape == (3, 256, 256)
    assert len(np.unique(first.reshape(3, -1), axis=1).T) >= 3


def test_the_drawn_styles_differ() -> None:
    assert len({style_image(name).tobytes() for name in DRAWN}) == len(DRAWN)


def test_bytes_are_the_floats_from_minus_1_to_1_and_back() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 3, 16, 16)
    floats = to_floats(levels)
    assert (floats.min(), floats.max()) == (-1, 1)
    assert np.array_equal(to_bytes(floats), levels)
    brightest = floats.numpy() > 0.5
    assert brightest.any()
    assert (to_bytes(3 * floats)[brightest] == 255).all()
    assert (to_bytes(3 * floats)[floats.numpy() < -0.5] == 0).all()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 40), (50, 16), (8, 9)])
def test_images_of_any_shape_are_resized_to_the_square(height: int, width: int) -> None:
    images = np.full((2, 3, height, width), 77, np.uint8)
    assert np.array_equal(resized(images, 16), np.full((2, 3, 16, 16), 77))


def test_the_longer_side_is_cropped_about_the_middle() -> None:
    image = np.zeros((1, 3, 16, 48), np.uint8)
    image[..., 16:32] = 200
    assert (resized(image, 16) == 200).all()


def test_an_image_of_the_size_is_left_as_it_is() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    assert resized(images, 16) is images


def test_a_png_holds_the_pixels_of_a_picture() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    picture = side_by_side([*images])
    assert picture.shape == (8, 24, 3)
    with Image.open(io.BytesIO(png_of(picture))) as image:
        assert np.array_equal(np.asarray(image), picture)
    assert np.array_equal(picture[:, 8:16].transpose(2, 0, 1), images[1])


def test_a_file_is_read_as_it_is_whatever_its_shape(tmp_path: Path) -> None:
    path = image_file(tmp_path / "own.png", 12, 30)
    image = read_image(path)
    assert np.array_equal(image, np.asarray(Image.open(path)).transpose(2, 0, 1))
    assert np.array_equal(style_image(str(path)), image)


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ("strips", "unknown task.style 'strips': did you mean 'stripes'?"),
        ("notes.txt", "is damaged: it cannot be decoded as a PNG or JPEG image"),
        (".", "is a folder; it must be a file"),
    ],
)
def test_what_is_no_style_is_refused_in_a_line(
    style: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("no image")
    with pytest.raises(NormbenchError) as refusal:
        style_image(style)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
