"""The cache of decoded images: decoded once, mapped, vouched for, and whole whatever happens."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normbench.data import cache
from normbench.data.source import DataHome, Dataset, Source, Split, sources
from normbench.errors import NormbenchError


@pytest.fixture
def home(cache_dir: Path) -> DataHome:
    return DataHome(cache_dir)


def split_of(num_images: int, seed: int) -> Split:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (num_images, 3, 4, 5), dtype=np.uint8)
    return Split.of(images=images, labels=generator.integers(0, 2, num_images))


class Counted:
    """A source that counts how often it is decoded."""

    def __init__(self, content: str = "content-1") -> None:
        self.calls = 0
        self.source = Source("tiny", content, ("a", "b"), (3, 4, 5), 6, 4, self.decode)

    def decode(self) -> tuple[Split, Split]:
        self.calls += 1
        return split_of(6, seed=1), split_of(4, seed=2)


def assert_is_what_was_decoded(dataset: Dataset) -> None:
    assert (dataset.name, dataset.content, dataset.classes) == ("tiny", "content-1", ("a", "b"))
    for split, expected in (
        (dataset.train, split_of(6, seed=1)),
        (dataset.test, split_of(4, seed=2)),
    ):
        assert (split["images"].dtype, split["labels"].dtype) == (np.uint8, np.int64)
        np.testing.assert_array_equal(split["images"], expected["images"])
        np.testing.assert_array_equal(split["labels"], expected["labels"])


def test_the_second_load_does_not_decode(home: DataHome) -> None:
    counted = Counted()
    for _ in range(2):
        assert_is_what_was_decoded(cache.load(counted.source, home))
    assert counted.calls == 1


def test_arrays_of_any_name_are_kept(home: DataHome) -> None:
    tokens = np.arange(6, dtype=np.int16).reshape(3, 2)
    split = Split.of(long_tokens=tokens)
    source = Source("text", "content-2", (), (3, 1, 1), 3, 3, lambda: (split, split))
    for loaded in (cache.load(source, home), cache.load(source, home)):
        assert list(loaded.train.arrays) == ["long_tokens"]
        np.testing.assert_array_equal(loaded.train["long_tokens"], tokens)


def test_arrays_are_mapped_and_writing_into_them_does_not_reach_the_disk(home: DataHome) -> None:
    counted = Counted()
    dataset = cache.load(counted.source, home)
    assert isinstance(dataset.train["images"], np.memmap)
    assert isinstance(dataset.test["labels"], np.memmap)
    dataset.train["images"][:] = 0
    assert_is_what_was_decoded(cache.load(counted.source, home))
    assert counted.calls == 1


def test_other_content_or_another_name_has_a_folder_of_its_own(home: DataHome) -> None:
    folders = {
        cache.cache_folder(Source(name, content, (), (3, 1, 1), 1, 1, Counted().decode), home)
        for name in ("one", "two")
        for content in ("a", "b")
    }
    assert len(folders) == 4
    assert all(folder.parent == home.cache_dir for folder in folders)


def flip_a_byte(folder: Path) -> None:
    path = folder / "train_images.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


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
    "half a manifest": lambda folder: (folder / "manifest.json").write_text('{"format": 1, "na'),
    "a manifest that is a list": lambda folder: (folder / "manifest.json").write_text("[]"),
    "a manifest with another checksum": lambda folder: change_manifest(
        folder, sha256={"train_images": "0"}
    ),
    "a manifest of another format": lambda folder: change_manifest(folder, format=0),
    "a manifest of binary garbage": lambda folder: (folder / "manifest.json").write_bytes(
        b"\xff\xfe\x00"
    ),
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
        if moment == "decode":
            source = Source("tiny", "content-1", ("a", "b"), (3, 4, 5), 6, 4, killed)
        else:
            source = counted.source
            patched.setattr(np if moment == "save" else cache, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            cache.load(source, home)
        assert not cache.cache_folder(source, home).exists()
    assert_is_what_was_decoded(cache.load(counted.source, home))
    assert [path for path in home.cache_dir.iterdir() if "partial" in path.name] == []


def test_two_at_once_decode_once(home: DataHome) -> None:
    counted, barrier = Counted(), threading.Barrier(2)
    decode = counted.decode

    def slowly() -> tuple[Split, Split]:
        time.sleep(0.2)
        return decode()

    source = Source("tiny", "content-1", ("a", "b"), (3, 4, 5), 6, 4, slowly)
    loaded: list[Dataset] = []

    def load() -> None:
        barrier.wait()
        loaded.append(cache.load(source, home))

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.calls == 1
    assert len(loaded) == 2
    for dataset in loaded:
        assert_is_what_was_decoded(dataset)


def test_the_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NORMBENCH_CACHE", str(tmp_path / "named"))
    assert cache.default_cache_dir() == tmp_path / "named"
    monkeypatch.delenv("NORMBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.default_cache_dir() == tmp_path / "xdg" / "normbench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache.default_cache_dir() == tmp_path / ".cache" / "normbench"


# What was imported


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of one's own: two classes, two images a side."""
    for side in ("train", "test"):
        for value, name in enumerate(("cat", "dog")):
            (tmp_path / "pets" / side / name).mkdir(parents=True)
            Image.new("RGB", (5, 4), (60 * value, 100, 200)).save(
                tmp_path / "pets" / side / name / "1.png"
            )
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
    fields = ("name", "content", "classes", "image_shape", "num_train", "num_test")
    assert [getattr(recalled, field) for field in fields] == [
        getattr(source, field) for field in fields
    ]
    after = cache.load(recalled, home)
    np.testing.assert_array_equal(after.train["images"], before.train["images"])
    np.testing.assert_array_equal(after.test["labels"], before.test["labels"])


def test_a_damaged_cache_of_what_was_imported_is_decoded_from_its_folder(
    folder: Path, home: DataHome
) -> None:
    source = imported(folder, home)
    flip_a_byte(cache.cache_folder(source, home))
    recalled = sources.build("image_folder", home)
    assert recalled.content == source.content
    cache.load(recalled, home)
    assert cache.is_intact(cache.cache_folder(source, home))


def test_a_damaged_cache_whose_folder_is_gone_is_refused_by_the_folder_s_name(
    folder: Path, home: DataHome
) -> None:
    source = imported(folder, home)
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
    with pytest.raises(
        NormbenchError,
        match=f"^data={name} needs data.root=PATH, or once `normbench data import PA",
    ):
        sources.build(name, home)


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


def carried(home: DataHome, tmp_path: Path) -> tuple[str, dict[str, bytes], DataHome]:
    """The decoded data of `home` as its name and files, and the empty home of another machine."""
    source = Counted().source
    cache.load(source, home)
    return *cache.pack(source, home), DataHome(tmp_path / "elsewhere")


def source_that_is_never_decoded() -> Source:
    return Source("tiny", "content-1", ("a", "b"), (3, 4, 5), 6, 4, lambda: pytest.fail("decoded"))


def test_what_was_packed_is_unpacked_and_found_by_its_content_without_decoding(
    home: DataHome, tmp_path: Path
) -> None:
    name, files, other = carried(home, tmp_path)
    cache.unpack(name, files, other)
    source = cache.cached_source("content-1", other)
    assert source is not None
    assert (source.name, source.num_train, source.num_test) == ("tiny", 6, 4)
    assert_is_what_was_decoded(cache.load(source_that_is_never_decoded(), other))
    assert [path.name for path in other.cache_dir.iterdir() if path.is_dir()] == [name]


def test_unpacking_twice_leaves_the_first_files_alone(home: DataHome, tmp_path: Path) -> None:
    name, files, other = carried(home, tmp_path)
    cache.unpack(name, files, other)
    before = {path: path.stat().st_ino for path in (other.cache_dir / name).iterdir()}
    cache.unpack(name, files, other)
    assert {path: path.stat().st_ino for path in (other.cache_dir / name).iterdir()} == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_unpacking_replaces_a_damaged_folder(home: DataHome, tmp_path: Path, damage: str) -> None:
    name, files, other = carried(home, tmp_path)
    cache.unpack(name, files, other)
    DAMAGES[damage](other.cache_dir / name)
    cache.unpack(name, files, other)
    assert_is_what_was_decoded(cache.load(source_that_is_never_decoded(), other))


@pytest.mark.parametrize("file", ["manifest.json", "train_images.npy", "test_labels.npy"])
def test_content_damaged_on_the_way_is_never_taken_for_the_data(
    home: DataHome, tmp_path: Path, file: str
) -> None:
    name, files, other = carried(home, tmp_path)
    cache.unpack(name, {**files, file: files[file][:-4] + b"\x07\x07\x07\x07"}, other)
    assert cache.cached_source("content-1", other) is None
    assert not cache.is_intact(other.cache_dir / name)
    cache.unpack(name, files, other)
    assert_is_what_was_decoded(cache.load(source_that_is_never_decoded(), other))


def test_a_kill_while_unpacking_leaves_no_half_cache(
    home: DataHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, files, other = carried(home, tmp_path)
    write, calls = cache.write_bytes, iter(range(10))

    def killed(path: Path, content: bytes) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(cache, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.unpack(name, files, other)
    assert not (other.cache_dir / name).exists()
    assert cache.cached_source("content-1", other) is None
    cache.unpack(name, files, other)
    assert_is_what_was_decoded(cache.load(source_that_is_never_decoded(), other))
    assert [path for path in other.cache_dir.iterdir() if "partial" in path.name] == []


def test_two_that_unpack_at_once_write_once(
    home: DataHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, files, other = carried(home, tmp_path)
    write, barrier = cache.write_bytes, threading.Barrier(2)
    written: list[str] = []

    def slowly(path: Path, content: bytes) -> None:
        time.sleep(0.05)
        written.append(path.name)
        write(path, content)

    monkeypatch.setattr(cache, "write_bytes", slowly)

    def unpack() -> None:
        barrier.wait()
        cache.unpack(name, files, other)

    threads = [threading.Thread(target=unpack) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written) == sorted(files)
    assert_is_what_was_decoded(cache.load(source_that_is_never_decoded(), other))
