"""Image files of another format, a huge size or with bombs: refused by their headers."""

from __future__ import annotations

import hashlib
import io
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from kit.hostile import PNG, chunk, in_little_memory, png, text_bombs
from PIL import Image

from normbench.data.formats.images import content_hash, decode_images, image_shape_of
from normbench.errors import NormbenchError

SHAPE = (3, 4, 5)


def refusal(encoded: bytes) -> str:
    with pytest.raises(NormbenchError) as caught:
        decode_images(lambda index: encoded, ["'x.png'"], SHAPE, workers=1)
    with pytest.raises(NormbenchError):
        image_shape_of(encoded, "'x.png'")
    return str(caught.value)


@pytest.mark.parametrize("kind", ["EPS", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICNS"])
def test_other_formats_are_refused_whatever_their_name(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4)).save(buffer, format=kind)
    assert refusal(buffer.getvalue()) == (
        "'x.png' is damaged: it cannot be decoded as a PNG or JPEG image"
    )


def test_an_image_of_too_many_pixels_is_refused_by_its_header() -> None:
    message = "'x.png' is 4097x4096 pixels; at most 16,777,216 are read"
    assert refusal(png(4097, 4096, rows=1)) == message
    assert image_shape_of(png(4096, 4096, rows=1), "'x.png'") == (3, 4096, 4096)


def test_the_size_in_the_header_is_compared_before_pixels_are_decoded() -> None:
    # Decoding would find that the rows are missing.
    size = "is 4000x4000 pixels, the others 5x4: all images must have one size"
    with pytest.raises(NormbenchError, match=f"'x.png' {size}"):
        decode_images(lambda index: png(4000, 4000, rows=1), ["'x.png'"], SHAPE, workers=1)


def test_bombs_of_text_are_refused() -> None:
    assert "is damaged" in refusal(png(5, 4, *text_bombs(70)))
    text = chunk(b"tEXt", b"title\0a cat")
    assert image_shape_of(png(5, 4, text), "'x.png'") == SHAPE


@pytest.mark.slow
def test_images_that_claim_gigabytes_are_refused_in_a_gigabyte(tmp_path: Path) -> None:
    (tmp_path / "huge.png").write_bytes(png(2**31 - 1, 2**31 - 1, rows=0))
    (tmp_path / "bomb.png").write_bytes(png(6000, 6000))
    (tmp_path / "text.png").write_bytes(png(5, 4, *text_bombs(80)))
    program = """
import sys; from pathlib import Path
from normbench.data.formats.images import decode_images
from normbench.errors import NormbenchError
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode_images(lambda index: path.read_bytes(), [path.name] * 8, (3, 4, 5), workers=8)
    except NormbenchError as error:
        print(error)
"""
    lines = in_little_memory(program, str(tmp_path)).splitlines()
    assert [line.split()[0] for line in lines] == ["bomb.png", "huge.png", "text.png"]


def test_pillow_s_settings_for_the_process_neither_count_nor_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    filters = list(warnings.filters)
    images = decode_images(lambda index: png(5, 4), ["'x.png'"], SHAPE, workers=1)
    np.testing.assert_array_equal(images, np.zeros((1, *SHAPE)))
    assert Image.MAX_IMAGE_PIXELS == 1
    assert list(warnings.filters) == filters


def test_an_image_without_pixels_is_damaged() -> None:
    assert "is damaged" in refusal(png(0, 0))
    assert "is damaged" in refusal(PNG)


def test_a_file_is_hashed_piece_by_piece(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(2**25)
    tracemalloc.start()
    content_hash([("big", tmp_path / "big")], most=2**25)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


def test_the_hash_is_the_sha256_of_names_lengths_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"cat")
    (tmp_path / "b").write_bytes(b"")
    parts = [(name, tmp_path / name) for name in ("a", "b")]
    expected = hashlib.sha256(b"a\x003\x00cat" + b"b\x000\x00").hexdigest()
    assert content_hash(parts, most=3) == f"sha256-{expected}"
