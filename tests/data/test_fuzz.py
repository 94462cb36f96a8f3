"""Damaged bytes of every kind of data file: refused in a line, harmless, or known as other data."""

from __future__ import annotations

import io
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from kit.hostile import memory_of_a_test
from numpy.typing import NDArray
from PIL import Image

from normbench.data import cache
from normbench.data.formats import cifar10, cifar10_parquet
from normbench.data.source import DataHome, Dataset, Source, sources
from normbench.errors import NormbenchError

ROWS = 10
IMAGES = np.random.default_rng(0).integers(0, 256, (6, ROWS, 3, 32, 32), dtype=np.uint8)
LABELS = np.stack([np.random.default_rng(seed).permutation(ROWS) for seed in range(6)])


def encoded(pixels: NDArray[np.uint8], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, format=kind)
    return buffer.getvalue()


def write_folder(root: Path, kind: str) -> None:
    for side, batch in (("train", 0), ("test", 1)):
        for number, name in enumerate(("cat", "dog")):
            folder = root / side / name
            folder.mkdir(parents=True)
            content = encoded(IMAGES[batch, number], kind)
            (folder / f"1.{kind.lower()}").write_bytes(content)


def write_parquet(root: Path) -> None:
    root.mkdir()
    for side, batch in (("train", 0), ("test", 1)):
        rows = [{"bytes": encoded(pixels, "PNG"), "path": None} for pixels in IMAGES[batch]]
        table = pyarrow.table({"img": rows, "label": LABELS[batch]})
        pyarrow.parquet.write_table(table, root / f"{side}-0.parquet")


def write_binary(root: Path) -> None:
    root.mkdir()
    for name, images, labels in zip(cifar10.BATCH_MD5, IMAGES, LABELS, strict=True):
        rows = np.hstack([labels.astype(np.uint8)[:, None], images.reshape(ROWS, -1)])
        (root / f"{name}.bin").write_bytes(rows.tobytes())


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "PNG": ("image_folder", lambda root: write_folder(root, "PNG")),
    "JPEG": ("image_folder", lambda root: write_folder(root, "JPEG")),
    "parquet": ("cifar10_parquet", write_parquet),
    "binary": ("cifar10", write_binary),
}


@pytest.fixture(autouse=True)
def small_cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = IMAGES[:5].sum((0, 1, 3, 4), dtype=int), IMAGES[5].sum((0, 2, 3), dtype=int)
    monkeypatch.setattr(cifar10_parquet, "ROWS", {"train": ROWS, "test": ROWS})
    first_labels = dict(zip(cifar10.BATCH_MD5, LABELS.tolist(), strict=True))
    values = {"ROWS": ROWS, "FIRST_LABELS": first_labels}
    values |= {"TRAIN_SUMS": tuple(train.tolist()), "TEST_SUMS": tuple(test.tolist())}
    for name, value in values.items():
        monkeypatch.setattr(cifar10, name, value)


def flip(data: bytearray, draw: random.Random) -> None:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def overwrite(data: bytearray, draw: random.Random) -> None:
    place = draw.randrange(len(data))
    length = draw.randint(1, 8)
    data[place : place + length] = draw.choice((b"\0", b"\xff", b"9", draw.randbytes(1))) * length


def truncate(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data)) :]


def insert(data: bytearray, draw: random.Random) -> None:
    place = draw.randint(0, len(data))
    data[place:place] = draw.randbytes(draw.randint(1, 64))


def cut_out(data: bytearray, draw: random.Random) -> None:
    place = draw.randrange(len(data))
    del data[place : place + draw.randint(1, 64)]


CHANGES = (flip, flip, flip, overwrite, overwrite, truncate, insert, cut_out)


def damage(files: list[Path], draw: random.Random) -> None:
    """Changes the bytes of a file once to three times, or swaps two files."""
    if draw.random() < 0.1:
        one, other = draw.sample(files, 2)
        contents = other.read_bytes(), one.read_bytes()
        one.write_bytes(contents[0])
        other.write_bytes(contents[1])
        return
    path = draw.choice(files)
    data = bytearray(path.read_bytes())
    # Headers and footers have more to say than the many bytes of pixels.
    end = draw.choice((0, 1, 2))
    edge = slice(0, 200) if end == 0 else slice(-600, None)
    part = data if end == 2 else data[edge]
    for _ in range(draw.randint(1, 3)):
        if part:
            draw.choice(CHANGES)(part, draw)
    if end != 2:
        data[edge] = part
    path.write_bytes(data)


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def assert_equal(found: Dataset, expected: Dataset) -> None:
    for split, wanted in ((found.train, expected.train), (found.test, expected.test)):
        assert list(split.arrays) == list(wanted.arrays)
        for name, array in split.arrays.items():
            assert array.dtype == wanted[name].dtype
            np.testing.assert_array_equal(array, wanted[name])


def assert_is_a_line(error: NormbenchError) -> None:
    message = str(error)
    assert message
    assert message.isprintable()
    assert len(message) < 1000


def is_refused(tmp_path: Path, kind: str, seed: int, expected: Dataset, content: str) -> bool:
    """Damages a copy of the files; returns whether they were refused, and else checks the data."""
    name, _ = WRITERS[kind]
    root = tmp_path / "damaged" / "data"
    shutil.copytree(tmp_path / "whole" / "data", root)
    home = DataHome(tmp_path / "damaged" / "cache", workers=1)
    try:
        damage(files_below(root), random.Random(f"{kind} {seed}"))
        source = sources.build(name, home, options={"root": str(root)})
        dataset = cache.load(source, home)
    except NormbenchError as error:
        assert_is_a_line(error)
        return True
    finally:
        shutil.rmtree(tmp_path / "damaged")
    if source.content == content:
        assert_equal(dataset, expected)
    return False


def fuzz_files(tmp_path: Path, kind: str, seeds: range) -> None:
    name, write = WRITERS[kind]
    root = tmp_path / "whole" / "data"
    root.parent.mkdir()
    write(root)
    home = DataHome(tmp_path / "cache", workers=1)
    source = sources.build(name, home, options={"root": str(root)})
    expected = cache.load(source, home)
    refused = 0
    with memory_of_a_test(), warnings.catch_warnings():
        # Pillow warns of some damage.
        warnings.simplefilter("ignore")
        for seed in seeds:
            print(f"seed {seed}")
            refused += is_refused(tmp_path, kind, seed, expected, source.content)
    assert refused, "no damage was noticed"


def fuzz_cache(tmp_path: Path, seeds: range) -> None:
    """Damages the cache of an imported folder, whose files are there to decode again."""
    root = tmp_path / "data"
    write_folder(root, "PNG")
    home = DataHome(tmp_path / "cache", workers=1)
    source = sources.build("image_folder", home, options={"root": str(root)})
    # Not the mapped arrays: these would follow the damage.
    expected = Dataset(source.name, *source.decode())
    cache.load(source, home)
    cache.remember("image_folder", root, source, home)
    shutil.copytree(home.cache_dir, tmp_path / "whole")
    with memory_of_a_test():
        for seed in seeds:
            print(f"seed {seed}")
            damage(files_below(home.cache_dir), random.Random(f"cache {seed}"))
            recalled = recall(home)
            if recalled is not None:
                assert recalled.content == source.content
                assert_equal(cache.load(recalled, home), expected)
            assert_equal(cache.load(source, home), expected)
            shutil.rmtree(home.cache_dir)
            shutil.copytree(tmp_path / "whole", home.cache_dir)


def recall(home: DataHome) -> Source | None:
    """The imported source; None where its entry is damaged, which is said in a line."""
    try:
        return sources.build("image_folder", home)
    except NormbenchError as error:
        assert_is_a_line(error)
        return None


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_files_are_refused_or_known_as_other_data(tmp_path: Path, kind: str) -> None:
    fuzz_files(tmp_path, kind, range(12))


def test_a_damaged_cache_gives_the_data_or_a_line(tmp_path: Path) -> None:
    fuzz_cache(tmp_path, range(12))


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_hundreds_of_damaged_files_are_refused_or_known_as_other_data(
    tmp_path: Path, kind: str
) -> None:
    fuzz_files(tmp_path, kind, range(12, 400))


@pytest.mark.slow
def test_hundreds_of_damaged_caches_give_the_data_or_a_line(tmp_path: Path) -> None:
    fuzz_cache(tmp_path, range(12, 400))
