"""The cache of decoded images: decoded once, mapped, vouched for, and whole whatever happens."""

from __future__ import annotations

import hashlib
import json
import pickle
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
from kit.hostile import STAND_INS, put_in_place_of, sparse
from PIL import Image

from normbench.config.places import default_cache_dir
from normbench.data import cache
from normbench.data.source import DataHome, Dataset, Source, Split, sources
from normbench.errors import NormbenchError, RunFailure

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


def replaced_by(file: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: put_in_place_of(folder / file, make)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped byte": flip_a_byte,
    "a truncated array": truncate,
    "a missing array": lambda folder: (folder / "train_labels.npy").unlink(),
    "a missing manifest": lambda folder: (folder / "manifest.json").unlink(),
    "half a manifest": write_manifest(b'{"format": 1, "na'),
    "a manifest that is a list": write_manifest(b"[]"),
    "a manifest that is a word": write_manifest(b'"manifest"'),
    "a manifest that is null": write_manifest(b"null"),
    "a manifest a thousand lists deep": write_manifest(b"[" * 100_000),
    "a manifest of a terabyte": lambda folder: sparse(folder / "manifest.json"),
    "an array of a terabyte": lambda folder: sparse(folder / "train_images.npy"),
    "a manifest of binary garbage": write_manifest(b"\xff\xfe\x00"),
    "a manifest with another checksum": lambda folder: change_manifest(
        folder, sha256={"train_images": "0"}
    ),
    "a manifest of another format": lambda folder: change_manifest(folder, format=0),
}


for file in ("manifest.json", "train_images.npy"):
    for kind, make in STAND_INS.items():
        DAMAGES[f"{kind} in the place of {file}"] = replaced_by(file, make)


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


def forged(folder: Path, arrays: dict[str, Any], **values: Any) -> None:
    """Changes arrays and manifest so that every checksum is right."""
    fields = json.loads((folder / "manifest.json").read_text())
    for stem, content in arrays.items():
        path = folder / f"{stem}.npy"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content)
        fields["sha256"][stem] = hashlib.sha256(path.read_bytes()).hexdigest()
    fields |= values
    del fields["checksum"]
    text = json.dumps(fields, sort_keys=True)
    fields["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(fields))


def npy_header(text: str) -> bytes:
    header = text.encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


ONES = np.ones((6, *SHAPE), np.uint8)
HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 3, 4, 5)}"
FORGERIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "another dtype": ({"train_images": ONES.astype(np.float32)}, {}),
    "another shape": ({"train_images": ONES[:, :, :3]}, {}),
    "another count": ({"train_images": ONES[:5], "train_labels": np.zeros(5, int)}, {}),
    "a count in the manifest": ({}, {"num_train": 7}),
    "labels of another shape": ({"train_labels": np.zeros((6, 1), int)}, {}),
    "labels as floats": ({"train_labels": np.zeros(6)}, {}),
    "objects": ({"train_labels": np.array([{}] * 6, dtype=object)}, {}),
    "a number": ({"train_labels": np.array(3)}, {}),
    "an archive of arrays": ({"train_labels": b"PK\x03\x04"}, {}),
    "a pickle": ({"train_labels": pickle.dumps(1)}, {}),
    "a giant shape": ({"train_images": npy_header(HUGE % 10**15)}, {}),
    "an endless shape": ({"train_images": npy_header(HUGE % 10**30)}, {}),
    "a negative shape": ({"train_images": npy_header(HUGE % -6)}, {}),
    "a giant header": ({"train_images": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 99}, {}),
    "a deep header": ({"train_images": npy_header("(" * 5000)}, {}),
    "a header that is no dict": ({"train_images": npy_header("'x")}, {}),
    "no array": ({}, {"sha256": {}}),
    "an array from elsewhere": ({}, {"sha256": {"train_/../../x": "0"}}),
    "a name that is a number": ({}, {"name": 3}),
    "classes in a word": ({}, {"classes": "ab"}),
    "a shape of words": ({}, {"image_shape": ["3", "4", "5"]}),
    "a shape of two": ({}, {"image_shape": [3, 4]}),
    "a count that is a word": ({}, {"num_train": "6"}),
    "an unknown key": ({}, {"more": 1}),
    "other content": ({}, {"content": "content-2"}),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_cache_is_not_believed_although_its_checksums_are_right(
    home: DataHome, forgery: str
) -> None:
    counted = Counted()
    cache.load(counted.source, home)
    folder = cache.cache_folder(counted.source, home)
    forged(folder, {})
    assert cache.is_intact(folder), "the forgery of nothing"
    arrays, values = FORGERIES[forgery]
    forged(folder, arrays, **values)
    assert cache.cached(home) == [(folder, "damaged: will be decoded again")]
    assert cache.cached_source("content-1", home) is None
    assert_is_what_was_decoded(cache.load(counted.source, home))
    assert counted.calls == 2


def test_an_array_that_the_manifest_does_not_name_is_not_loaded(home: DataHome) -> None:
    counted = Counted()
    cache.load(counted.source, home)
    np.save(cache.cache_folder(counted.source, home) / "train_evil.npy", np.zeros(6))
    assert_is_what_was_decoded(cache.load(counted.source, home))
    assert counted.calls == 1


def test_a_file_in_the_place_of_the_folder_is_named(home: DataHome) -> None:
    folder = cache.cache_folder(Counted().source, home)
    folder.parent.mkdir()
    folder.write_text("a file")
    with pytest.raises(RunFailure, match=f"^'{folder}' cannot be written: "):
        cache.load(Counted().source, home)


@pytest.mark.parametrize(("kind", "make"), STAND_INS.items())
def test_what_stands_in_the_place_of_the_list_of_imports_is_named(
    home: DataHome, kind: str, make: Callable[[Path], object]
) -> None:
    home.cache_dir.mkdir()
    path = home.cache_dir / "imported.json"
    make(path)
    with pytest.raises(NormbenchError, match=f"^'{path}' is {kind}; it must be a file$"):
        sources.build("image_folder", home)


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
    assert default_cache_dir() == tmp_path / "named"
    monkeypatch.delenv("NORMBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "normbench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "normbench"


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


@pytest.mark.parametrize("entry", [{"root": "/a\0b"}, {"folder": "a\0b"}, {"folder": "../x"}])
def test_an_odd_import_is_decoded_again_or_refused(
    folder: Path, home: DataHome, entry: dict[str, str]
) -> None:
    source = imported(folder, home)
    shutil.rmtree(cache.cache_folder(source, home))
    path = home.cache_dir / "imported.json"
    imports = json.loads(path.read_text())
    imports["image_folder"] |= entry
    path.write_text(json.dumps(imports))
    if "root" in entry:
        with pytest.raises(NormbenchError, match=r"data\.root: '/a\\x00b' is no path: .*NUL"):
            sources.build("image_folder", home)
    else:
        assert sources.build("image_folder", home).content == source.content


@pytest.mark.parametrize(
    "content", ["{", "[]", "[" * 10**5, "null", '{"image_folder": {"root": "x"}}', b"\xff"]
)
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
