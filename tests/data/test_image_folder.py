"""Images of one's own, in a folder per side and class."""

from __future__ import annotations

import errno
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.hostile import STAND_INS, chunk, png, put_in_place_of, sparse
from numpy.typing import NDArray
from PIL import Image

from normbench.data.formats import image_folder
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


@pytest.mark.parametrize(("kind", "make"), STAND_INS.items())
def test_what_stands_in_the_place_of_an_image_is_named(
    root: Path, kind: str, make: Callable[[Path], object]
) -> None:
    path = root / "train/dog/1.png"
    put_in_place_of(path, make)
    assert refusal(root) == f"'{path}' is {kind}; it must be a file"


def test_a_file_that_is_too_large_is_named_with_the_limit(root: Path) -> None:
    sparse(root / "test/dog/0.png")
    size = "has 1,099,511,627,776 bytes; at most 268,435,456 are read"
    assert refusal(root) == f"'{root}/test/dog/0.png' {size}"


@pytest.mark.parametrize(("place", "target"), [("train/emu", "emu"), ("train/emu", "nowhere")])
@pytest.mark.parametrize("place_of", ["class", "image"])
def test_links_that_lead_nowhere_or_in_a_circle_are_named(
    root: Path, place: str, target: str, place_of: str
) -> None:
    path = root / place
    if place_of == "class":
        shutil.rmtree(path)
    else:
        path, target = path / "0.png", target.replace("emu", "0.png")
        path.unlink()
    path.symlink_to(target)
    assert refusal(root).startswith(f"'{path}' cannot be read: ")


def test_a_link_to_the_folder_above_is_no_endless_way(root: Path) -> None:
    (root / "train/emu/up").symlink_to(root / "train", target_is_directory=True)
    assert source_of(root).num_train == 6


@pytest.mark.parametrize("name", ["caf\udce9", "a\tb", "a\nb", "\x1b[31mred", "a\u2028b"])
def test_names_that_no_table_can_hold_are_refused_escaped(root: Path, name: str) -> None:
    rule = "its name must be UTF-8 without control characters: rename it"
    image = root / "train/dog" / f"{name}.png"
    shutil.copy(root / "train/dog/0.png", image)
    assert refusal(root) == f"{str(image)!r}: {rule}"
    image.unlink()
    for side in ("train", "test"):
        (root / side / "dog").rename(root / side / name)
    assert refusal(root) == f"{str(root / 'train' / name)!r}: {rule}"
    for side in ("train", "test"):
        (root / side / name).rename(root / side / "dog")
    moved = root.rename(root.with_name(name))
    message = refusal(moved)
    assert message.isprintable()
    assert "UTF-8" in message or "unicode" in message


def test_a_folder_that_may_not_be_read_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterdir = Path.iterdir

    def guarded(path: Path) -> Iterator[Path]:
        if path == root / "test/dog":
            raise PermissionError(errno.EACCES, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", guarded)
    assert refusal(root) == f"'{root}/test/dog' cannot be read: Permission denied"


def test_an_image_that_may_not_be_read_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, open_path = root / "test/dog/0.png", Path.open

    def guarded(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_path(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", guarded)
    assert refusal(root) == f"'{path}' cannot be read: Permission denied"


def test_more_images_than_memory_holds_are_refused_before_any_is_decoded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_bytes = 9 * 3 * HEIGHT * WIDTH
    least = num_bytes / 2**30 / image_folder.MEMORY_SHARE
    monkeypatch.setattr(image_folder, "available_memory_gib", lambda: least)
    source_of(root).decode()
    monkeypatch.setattr(image_folder, "available_memory_gib", lambda: 0.99 * least)
    monkeypatch.setattr(image_folder, "decode_images", lambda *_: pytest.fail("decoded"))
    message = refusal(root)
    assert "GiB of images (9 of 5x4): resize them with data.size; at most " in message
    assert message.endswith(" GiB, 75% of the available memory")


def test_decoding_holds_no_more_files_than_it_has_workers(root: Path) -> None:
    for path in root.glob("t*/*/*.png"):
        path.write_bytes(png(WIDTH, HEIGHT, chunk(b"prVt", bytes(2**22))))
    source = sources.build("image_folder", DataHome(root, workers=1), options={"root": str(root)})
    tracemalloc.start()
    source.decode()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**22, "nine files of 4 MiB"


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
    assert refusal(root) == f"'{path}' is damaged: it cannot be decoded as a PNG or JPEG image"


def test_an_image_of_another_size_is_named(root: Path) -> None:
    Image.new("RGB", (7, 9)).save(root / "test/dog/0.png")
    size = "is 7x9 pixels, the others 5x4: all images must have one size"
    hint = "data.size=32 resizes and crops"
    assert refusal(root) == f"'{root}/test/dog/0.png' {size}; {hint}"
