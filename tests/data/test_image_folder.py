"""Images of one's own, in a folder per side and class."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from normbench.data.source import DataHome, Source, sources
from normbench.errors import NormbenchError

CLASSES = ("cat", "dog", "emu")
WIDTH, HEIGHT = 5, 4


def pixels(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training images and a test image for each class; the place decides the pixels."""
    for number, name in enumerate(CLASSES):
        for side, count in (("train", 2), ("test", 1)):
            folder = tmp_path / "zoo" / side / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(pixels(10 * number + index)).save(folder / f"{index}.png")
    return tmp_path / "zoo"


def source_of(root: Path) -> Source:
    home = DataHome(root.parent / "cache", workers=2)
    return sources.build("image_folder", home, options={"root": str(root)})


def refusal(root: Path) -> str:
    with pytest.raises(NormbenchError) as caught:
        source_of(root).decode()
    return str(caught.value)


def test_images_and_labels_come_in_the_order_of_classes_and_file_names(root: Path) -> None:
    source = source_of(root)
    assert (source.name, source.classes) == ("folder-zoo", CLASSES)
    assert source.image_shape == (3, HEIGHT, WIDTH)
    assert (source.num_train, source.num_test) == (6, 3)
    train, test = source.decode()
    assert train["labels"].tolist() == [0, 0, 1, 1, 2, 2]
    assert test["labels"].tolist() == [0, 1, 2]
    assert (train["images"].dtype, train["labels"].dtype) == (np.uint8, np.int64)
    expected = [pixels(seed).transpose(2, 0, 1) for seed in (0, 1, 10, 11, 20, 21)]
    np.testing.assert_array_equal(train["images"], expected)
    np.testing.assert_array_equal(test["images"], expected[::2])


def test_grey_palette_and_transparent_images_become_rgb(root: Path) -> None:
    grey = Image.fromarray(pixels(0)).convert("L")
    grey.save(root / "train/cat/0.png")
    Image.fromarray(pixels(1)).quantize(256).save(root / "train/cat/1.png")
    Image.fromarray(pixels(2)).convert("RGBA").save(root / "train/dog/0.png")
    train, _ = source_of(root).decode()
    np.testing.assert_array_equal(train["images"][0], np.stack([np.asarray(grey)] * 3))
    np.testing.assert_array_equal(train["images"][1], pixels(1).transpose(2, 0, 1))
    np.testing.assert_array_equal(train["images"][2], pixels(2).transpose(2, 0, 1))


def test_jpeg_counts_as_an_image_and_other_files_do_not(root: Path) -> None:
    Image.fromarray(pixels(3)).save(root / "train/cat/2.JPG", format="JPEG")
    (root / "train/cat/notes.txt").write_text("good cats")
    assert source_of(root).num_train == 7


def test_the_content_follows_the_bytes_and_their_places_not_the_folder_s_place(root: Path) -> None:
    content = source_of(root).content
    moved = root.with_name("elsewhere")
    shutil.copytree(root, moved)
    assert source_of(moved).content == content
    (moved / "train/cat/0.png").rename(moved / "train/cat/9.png")
    assert source_of(moved).content != content
    Image.fromarray(pixels(99)).save(root / "test/emu/0.png")
    assert source_of(root).content != content


def test_missing_folders_classes_and_images_are_named(root: Path) -> None:
    assert f"'{root}/nowhere'" in refusal(root / "nowhere")
    (root / "test/dog/0.png").rename(root / "test/dog/0.gif")
    assert refusal(root) == f"'{root}/test/dog' holds no image (.png, .jpg, .jpeg)"
    (root / "test/emu").rename(root / "test/fox")
    message = "train/ and test/ must have the same classes; only on one side: emu, fox"
    assert refusal(root).endswith(message)
    for name in ("emu", "dog"):
        shutil.rmtree(root / "train" / name)
    assert refusal(root) == f"'{root}/train': 1 class folders; at least 2 are needed"
    shutil.rmtree(root / "train")
    message = f"data.root: there is no folder '{root}/train'; expected train/CLASS/*.png"
    assert refusal(root).startswith(message)


@pytest.mark.parametrize("place", ["train/cat/0.png", "train/dog/1.png", "test/emu/0.png"])
@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated"])
def test_a_damaged_image_is_named(root: Path, place: str, damage: str) -> None:
    path = root / place
    contents = {"empty": b"", "garbage": b"GIF87a?", "truncated": path.read_bytes()[:-30]}
    path.write_bytes(contents[damage])
    assert refusal(root) == f"'{path}' is damaged: it cannot be decoded as an image"


def test_an_image_of_another_size_is_named(root: Path) -> None:
    Image.new("RGB", (7, 9)).save(root / "test/dog/0.png")
    size = "is 7x9 pixels, the others 5x4: all images must have one size"
    assert refusal(root) == f"'{root}/test/dog/0.png' {size}"
