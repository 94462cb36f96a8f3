"""The cache of decoded images: decoded once, mapped, vouched for, and whole whatever happens."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normbench.data import cache
from normbench.data.source import DataHome, Dataset, Source, Split, sources
from normbench.errors import NormbenchError

CLASSES, SHAPE = ("a", "b"), (3, 4, 5)


@pytest.fixture
def home(cache_dir: Path) -> DataHome:
    return DataHome(cache_dir)


def split_of(num_images: int, seed: int) -> Split:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (num_images, *SHAPE), dtype=np.uint8)
    return Split.of(images=images, labels=generator.integers(0, 2, num_images))


TRAIN, TEST = split_of(6, seed=1), split_of(4, seed=2)


def source_of(decode: Callable[[], tuple[Split, Split]], content: str = "content-1") -> Source:
    return Source("tiny", content, CLASSES, SHAPE, 6, 4, decode)


class Counted:
    """A source and the number of times it was decoded."""

    def __init__(self) -> None:
        self.calls = 0
        self.source = source_of(self.decode)

    def decode(self) -> tuple[Split, Split]:
        self.calls += 1
        return TRAIN, TEST


def never() -> tuple[Split, Split]:
    pytest.fail("decoded")


def assert_is_what_was_decoded(dataset: Dataset) -> None:
    assert dataset.name == "tiny"
    for split, expected in ((dataset.train, TRAIN), (dataset.test, TEST)):
        assert list(split.arrays) == ["images", "labels"]
        for name, array in split.arrays.items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name])


def at_once(action: Callable[[], object]) -> None:
    """Calls `action` in two threads, which begin together."""
    barrier = threading.Barrier(2)

    def after_both() -> None:
        barrier.wait()
        action()

    with ThreadPoolExecutor(2) as pool:
        for call in [pool.submit(after_both) for _ in range(2)]:
            call.result()


def assert_no_partial(home: DataHome) -> None:
    assert [path for path in home.cache_dir.iterdir() if "partial" in path.name] == []


def test_the_second_load_does_not_decode(home: DataHome) -> None:
    counted = Counted()
    for _ in range(2):
        assert_is_what_was_decoded(cache.load(counted.source, home))
    assert counted.calls == 1


def test_arrays_of_any_name_are_kept(home: DataHome) -> None:
    tokens = np.arange(6, dtype=np.int16).reshape(3, 2)
    split = Split.of(long_tokens=tokens)
    source = source_of(lambda: (split, split))
    for _ in range(2):
        loaded = cache.load(source, home)
        assert list(loaded.train.arrays) == ["long_tokens"]
        np.testing.assert_array_equal(loaded.train["long_tokens"], tokens)


def test_arrays_are_mapped_and_writing_into_them_does_not_reach_the_disk(home: DataHome) -> None:
    dataset = cache.load(Counted().source, home)
    assert isinstance(dataset.train["images"], np.memmap)
    assert isinstance(dataset.test["labels"], np.memmap)
    dataset.train["images"][:] = 0
    assert_is_what_was_decoded(cache.load(source_of(never), home))


def test_other_content_or_another_name_has_a_folder_of_its_own(home: DataHome) -> None:
    source = source_of(never)
    changed = (source, replace(source, name="other"), replace(source, content="other"))
    assert len({cache.cache_folder(each, home) for each in changed}) == 3


def flip_a_byte(folder: Path) -> None:
    path = folder / "train_images.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def write_manifest(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "manifest.json").write_bytes(content)


def truncate(folder: Path) -> None:
    path = folder / "test_labels.npy"
    path.write_bytes(path.read_bytes()[:-8])


def change_manifest(folder: Path, **values: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped byte": flip_a_byte,
    "a truncated array": truncate,
    "a missing array": lambda folder: (folder / "train_labels.npy").unlink(),
    "a missing manifest": lambda folder: (folder / "manifest.json").unlink(),
    "half a manifest": write_manifest(b'{"format": 1, "na'),
    "a manifest that is a list": write_manifest(b"[]"),
    "a manifest of binary garbage": write_manifest(b"\xff\xfe\x00"),
    "a manifest with another checksum": lambda folder: change_manifest(
        folder, sha256={"train_images": "0"}
    ),
    "a manifest of another format": lambda folder: change_manifest(folder, format=0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_decoded_again(home: DataHome, damage: str) -> None:
    counted = Counted()
    cache.load(counted.source, home)
    folder = cache.cache_folder(counted.source, home)
    assert cache.is_intact(folder)
    DAMAGES[damage](folder)
    assert not cache.is_intact(folder)
    assert_is_what_was_decoded(cache.load(counted.source, home))
    assert cache.is_intact(folder)
    assert counted.calls == 2


@pytest.mark.parametrize("moment", ["decode", "save", "write_json"])
def test_a_kill_in_the_middle_leaves_no_half_cache_and_the_next_load_decodes(
    home: DataHome, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted()
    calls = iter(range(10))
    save = np.save

    def killed(*arguments: Any, **options: Any) -> Any:
        if moment == "save" and next(calls) < 2:
            return save(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        source = source_of(killed) if moment == "decode" else counted.source
        if moment != "decode":
            patched.setattr(np if moment == "save" else cache, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            cache.load(source, home)
        assert not cache.cache_folder(source, home).exists()
    assert_is_what_was_decoded(cache.load(counted.source, home))
    assert_no_partial(home)


def test_two_at_once_decode_once(home: DataHome) -> None:
    counted = Counted()

    def slowly() -> tuple[Split, Split]:
        time.sleep(0.1)
        return counted.decode()

    at_once(lambda: assert_is_what_was_decoded(cache.load(source_of(slowly), home)))
    assert counted.calls == 1


def test_the_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NORMBENCH_CACHE", str(tmp_path / "named"))
    assert cache.default_cache_dir() == tmp_path / "named"
    monkeypatch.delenv("NORMBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.default_cache_dir() == tmp_path / "xdg" / "normbench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.default_cache_dir() == tmp_path / ".cache" / "normbench"


# What was imported


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of one's own: two classes, two images a side."""
    for side in ("train", "test"):
        for value, name in enumerate(("cat", "dog")):
            (tmp_path / "pets" / side / name).mkdir(parents=True)
            image = Image.new("RGB", (5, 4), (60 * value, 100, 200))
            image.save(tmp_path / "pets" / side / name / "1.png")
    return tmp_path / "pets"


def imported(folder: Path, home: DataHome) -> Source:
    source = sources.build("image_folder", home, options={"root": str(folder)})
    cache.load(source, home)
    cache.remember("image_folder", folder, source, home)
    return source


def test_what_was_imported_is_recalled_when_its_folder_is_gone(
    folder: Path, home: DataHome
) -> None:
    source = imported(folder, home)
    before = cache.load(source, home)
    shutil.rmtree(folder)
    recalled = sources.build("image_folder", home)
    assert replace(recalled, decode=source.decode) == source
    after = cache.load(recalled, home)
    np.testing.assert_array_equal(after.train["images"], before.train["images"])
    np.testing.assert_array_equal(after.test["labels"], before.test["labels"])


def test_a_damaged_cache_of_what_was_imported_is_decoded_from_its_folder_or_names_the_folder(
    folder: Path, home: DataHome
) -> None:
    source = imported(folder, home)
    flip_a_byte(cache.cache_folder(source, home))
    recalled = sources.build("image_folder", home)
    assert recalled.content == source.content
    cache.load(recalled, home)
    assert cache.is_intact(cache.cache_folder(source, home))
    flip_a_byte(cache.cache_folder(source, home))
    shutil.rmtree(folder)
    with pytest.raises(NormbenchError, match=f"there is no folder '{folder}'"):
        sources.build("image_folder", home)


def test_a_manifest_that_names_other_data_is_not_believed(folder: Path, home: DataHome) -> None:
    source = imported(folder, home)
    change_manifest(cache.cache_folder(source, home), content="sha256-of-something-else")
    assert sources.build("image_folder", home).content == source.content


@pytest.mark.parametrize("name", ["image_folder", "cifar10_parquet"])
def test_data_that_nobody_imported_is_asked_for(name: str, home: DataHome) -> None:
    message = f"^data={name} needs data.root=PATH, or once `normbench data import PA"
    with pytest.raises(NormbenchError, match=message):
        sources.build(name, home)


@pytest.mark.parametrize("content", ["{", "[]", '{"image_folder": {"root": "x"}}', b"\xff"])
def test_a_damaged_list_of_imports_is_named(home: DataHome, content: str | bytes) -> None:
    home.cache_dir.mkdir()
    path = home.cache_dir / "imported.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(NormbenchError, match=f"^'{path}' is damaged: remove it and import again$"):
        sources.build("image_folder", home)


def test_the_last_import_counts_and_other_names_keep_theirs(folder: Path, home: DataHome) -> None:
    imported(folder, home)
    other = folder.with_name("others")
    shutil.copytree(folder, other)
    Image.new("RGB", (5, 4)).save(other / "train" / "cat" / "2.png")
    source = imported(other, home)
    cache.remember("cifar10_parquet", folder, source, home)
    assert sources.build("image_folder", home).content == source.content
    assert sources.build("image_folder", home).name == "folder-others"


# Carried to another machine


class Carried:
    """The decoded data of `home` as name and files, and the empty home of another machine."""

    def __init__(self, home: DataHome, other: DataHome) -> None:
        source = source_of(lambda: (TRAIN, TEST))
        cache.load(source, home)
        self.name, self.files = cache.pack(source, home)
        self.home = other
        self.folder = other.cache_dir / self.name

    def unpack(self, **changed: bytes) -> None:
        cache.unpack(self.name, self.files | changed, self.home)

    def source(self) -> Source | None:
        return cache.cached_source("content-1", self.home)

    def assert_arrived(self) -> None:
        assert_is_what_was_decoded(cache.load(source_of(never), self.home))
        assert_no_partial(self.home)


@pytest.fixture
def carried(home: DataHome, tmp_path: Path) -> Carried:
    return Carried(home, DataHome(tmp_path / "elsewhere"))


def test_unpacked_data_are_found_by_their_content_without_decoding(carried: Carried) -> None:
    carried.unpack()
    source = carried.source()
    assert source is not None
    assert (source.name, source.num_train, source.num_test) == ("tiny", 6, 4)
    carried.assert_arrived()
    folders = [path.name for path in carried.home.cache_dir.iterdir() if path.is_dir()]
    assert folders == [carried.name]


def test_unpacking_twice_leaves_the_first_files_alone_unless_damaged(carried: Carried) -> None:
    carried.unpack()
    before = {path: path.stat().st_ino for path in carried.folder.iterdir()}
    carried.unpack()
    assert {path: path.stat().st_ino for path in carried.folder.iterdir()} == before
    flip_a_byte(carried.folder)
    carried.unpack()
    carried.assert_arrived()


@pytest.mark.parametrize("file", ["manifest.json", "train_images.npy", "test_labels.npy"])
def test_content_damaged_on_the_way_is_never_taken_for_the_data(
    carried: Carried, file: str
) -> None:
    carried.unpack(**{file: carried.files[file][:-4] + b"\x07\x07\x07\x07"})
    assert carried.source() is None
    assert not cache.is_intact(carried.folder)
    carried.unpack()
    carried.assert_arrived()


def test_a_kill_while_unpacking_leaves_no_half_cache(
    carried: Carried, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = cache.write_bytes, iter(range(10))

    def killed(path: Path, content: bytes) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(cache, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            carried.unpack()
    assert not carried.folder.exists()
    assert carried.source() is None
    carried.unpack()
    carried.assert_arrived()


def test_two_that_unpack_at_once_write_once(
    carried: Carried, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = cache.write_bytes
    written: list[str] = []

    def slowly(path: Path, content: bytes) -> None:
        time.sleep(0.02)
        written.append(path.name)
        write(path, content)

    monkeypatch.setattr(cache, "write_bytes", slowly)
    at_once(carried.unpack)
    assert sorted(written) == sorted(carried.files)
    carried.assert_arrived()
