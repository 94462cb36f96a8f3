"""The official CIFAR-10 source, on a tiny imitation of it in all four published shapes."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torchvision
from kit.hostile import STAND_INS, put_in_place_of, sparse
from numpy.typing import NDArray

from normbench.data.fetch.download import MirrorsFailed
from normbench.data.formats import cifar10
from normbench.data.importing import recognise
from normbench.data.source import DataHome, Source, Split, sources
from normbench.errors import NormbenchError, RunFailure

ROWS = 10
SHAPES = [cifar10.FOLDER, cifar10.ARCHIVE, cifar10.BINARY_FOLDER, cifar10.BINARY_ARCHIVE]


def python2_pickle(pixels: NDArray[np.uint8], labels: list[int]) -> bytes:
    """{'data': pixels, 'labels': labels} as pickled by Python 2 and its numpy, by opcodes."""
    data = pixels.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = struct.pack("<cicic", b"J", pixels.shape[0], b"J", pixels.shape[1], b"\x86")
    array += b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(data)) + data + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + listed + b"u."


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        # Not in the order of the batches, as in the published archive.
        for name in sorted(files, reverse=True):
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            tar.addfile(member, io.BytesIO(files[name]))
    return buffer.getvalue()


@dataclass(frozen=True)
class Imitation:
    """CIFAR-10 of 10 images a batch: `shapes` has the files of each published shape by name."""

    shapes: dict[str, dict[str, bytes]]
    train: Split
    test: Split
    checksums: dict[str, str]
    first_labels: dict[str, list[int]]

    def stand_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Lets its checksums, sizes and sums stand for the published ones."""
        packed = self.shapes[cifar10.ARCHIVE][cifar10.ARCHIVE]
        binary = self.shapes[cifar10.BINARY_ARCHIVE][cifar10.BINARY_ARCHIVE]
        values = {
            "ROWS": ROWS,
            "BATCH_MD5": dict(self.checksums),
            "ARCHIVE_MD5": md5(packed),
            "ARCHIVE_SIZE": len(packed),
            "BINARY_ARCHIVE_MD5": md5(binary),
            "TRAIN_SUMS": tuple(self.train["images"].sum((0, 2, 3), dtype=int).tolist()),
            "TEST_SUMS": tuple(self.test["images"].sum((0, 2, 3), dtype=int).tolist()),
            "FIRST_LABELS": self.first_labels,
            "MIRRORS": ("http://127.0.0.1:9/nothing-there",),
        }
        for name, value in values.items():
            monkeypatch.setattr(cifar10, name, value)

    def put(self, shape: str, folder: Path) -> Path:
        """Writes the files of a shape into `folder`; returns the path of the shape."""
        for name, data in self.shapes[shape].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder / shape

    def assert_is(self, source: Source) -> None:
        for split, wanted in zip(source.decode(), (self.train, self.test), strict=True):
            assert (split["images"].dtype, split["labels"].dtype) == (np.uint8, np.int64)
            np.testing.assert_array_equal(split["images"], wanted["images"])
            np.testing.assert_array_equal(split["labels"], wanted["labels"])


@pytest.fixture(scope="module")
def made() -> Imitation:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (6, ROWS, 3, 32, 32), dtype=np.uint8)
    labels = np.stack([generator.permutation(10) for _ in range(6)])
    python = {f"{cifar10.FOLDER}/batches.meta": pickle.dumps({"label_names": cifar10.CLASSES}, 2)}
    names = "\n".join(cifar10.CLASSES).encode()
    binary = {f"{cifar10.BINARY_FOLDER}/batches.meta.txt": names}
    checksums = {}
    for name, batch, targets in zip(cifar10.BATCH_MD5, images, labels, strict=True):
        pixels = batch.reshape(ROWS, -1)
        pickled = python2_pickle(pixels, targets.tolist())
        rows = np.hstack([targets.astype(np.uint8)[:, None], pixels])
        python[f"{cifar10.FOLDER}/{name}"] = pickled
        binary[f"{cifar10.BINARY_FOLDER}/{name}.bin"] = rows.tobytes()
        checksums[name] = md5(pickled)
    shapes = {cifar10.FOLDER: python, cifar10.BINARY_FOLDER: binary}
    shapes[cifar10.ARCHIVE] = {cifar10.ARCHIVE: archive(python)}
    shapes[cifar10.BINARY_ARCHIVE] = {cifar10.BINARY_ARCHIVE: archive(binary)}
    train = Split.of(images=images[:5].reshape(-1, 3, 32, 32), labels=labels[:5].reshape(-1))
    test = Split.of(images=images[5], labels=labels[5])
    first_labels = dict(zip(cifar10.BATCH_MD5, labels.tolist(), strict=True))
    return Imitation(shapes, train, test, checksums, first_labels)


@pytest.fixture
def imitation(made: Imitation, monkeypatch: pytest.MonkeyPatch) -> Imitation:
    made.stand_in(monkeypatch)
    return made


@pytest.fixture
def home(tmp_path: Path) -> DataHome:
    return DataHome(cache_dir=tmp_path / "cache")


def from_root(root: Path) -> Source:
    options = {"root": str(root)}
    return sources.build("cifar10", DataHome(cache_dir=root / "cache"), options=options)


def flip(path: Path, position: int) -> None:
    """Changes the last bit of the byte at `position`."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_its_identity_needs_no_file(home: DataHome) -> None:
    source = sources.build("cifar10", home)
    assert (source.name, source.content) == ("cifar10", "md5-c58f30108f718f92721af3b95e74349a")
    assert (source.num_train, source.num_test, source.image_shape) == (50_000, 10_000, (3, 32, 32))
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert source.classes == tuple(names.split())
    assert not home.cache_dir.exists()


def test_the_checksums_are_those_torchvision_knows() -> None:
    known = torchvision.datasets.CIFAR10
    assert dict(known.train_list + known.test_list) == cifar10.BATCH_MD5
    assert (known.filename, known.tgz_md5) == (cifar10.ARCHIVE, cifar10.ARCHIVE_MD5)
    assert known.base_folder == cifar10.FOLDER
    assert f"md5-{known.tgz_md5}" == cifar10.CONTENT


def test_the_sums_of_colours_are_the_published_means() -> None:
    # Means in [0, 1] as commonly quoted to eight digits, from float64 arithmetic over each split.
    for sums, num_images, means in (
        (cifar10.TRAIN_SUMS, 50_000, (0.49139968, 0.48215841, 0.44653091)),
        (cifar10.TEST_SUMS, 10_000, (0.49421428, 0.48513139, 0.45040909)),
    ):
        found = np.array(sums) / (num_images * 1024 * 255)
        np.testing.assert_allclose(found, means, rtol=0, atol=5.1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_read_to_the_same_arrays(
    shape: str, imitation: Imitation, tmp_path: Path
) -> None:
    path = imitation.put(shape, tmp_path)
    imitation.assert_is(from_root(tmp_path))
    imitation.assert_is(from_root(path))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_used_from_the_downloads(
    shape: str, imitation: Imitation, home: DataHome
) -> None:
    imitation.put(shape, home.cache_dir / "downloads")
    imitation.assert_is(sources.build("cifar10", home))


def test_torchvision_reads_the_same_from_the_same_folder(
    imitation: Imitation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = imitation.put(cifar10.FOLDER, tmp_path)
    theirs = torchvision.datasets.CIFAR10
    listed = [[name, checksum] for name, checksum in cifar10.BATCH_MD5.items()]
    monkeypatch.setattr(theirs, "train_list", listed[:5])
    monkeypatch.setattr(theirs, "test_list", listed[5:])
    meta = theirs.meta | {"md5": md5((folder / "batches.meta").read_bytes())}
    monkeypatch.setattr(theirs, "meta", meta)
    for split, is_train in zip(from_root(tmp_path).decode(), (True, False), strict=True):
        expected = theirs(tmp_path, train=is_train)
        np.testing.assert_array_equal(split["images"].transpose(0, 2, 3, 1), expected.data)
        np.testing.assert_array_equal(split["labels"], expected.targets)
        assert tuple(expected.classes) == cifar10.CLASSES


def test_pickles_of_today_are_read_too(
    imitation: Imitation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = imitation.put(cifar10.FOLDER, tmp_path) / "test_batch"
    pixels, labels = imitation.test["images"].reshape(ROWS, -1), imitation.test["labels"].tolist()
    path.write_bytes(pickle.dumps({"data": pixels, "labels": labels}, protocol=2))
    monkeypatch.setitem(cifar10.BATCH_MD5, "test_batch", md5(path.read_bytes()))
    imitation.assert_is(from_root(tmp_path))


@pytest.mark.parametrize(
    ("content", "state"),
    [(None, "no such file or folder"), ("README", "no complete CIFAR-10 there")],
)
def test_a_root_without_cifar10_is_refused_when_the_source_is_built(
    content: str | None, state: str, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    if content:
        root.mkdir()
        (root / content).write_text("nothing here")
    message = rf"data.root '.*root': {state}; must be, or hold, cifar-10-batc"
    with pytest.raises(NormbenchError, match=message) as error:
        from_root(root)
    assert error.value.exit_code == 2


def test_a_folder_that_lacks_a_batch_is_refused_when_the_source_is_built(
    imitation: Imitation, tmp_path: Path
) -> None:
    (imitation.put(cifar10.FOLDER, tmp_path) / "data_batch_4").unlink()
    with pytest.raises(NormbenchError, match="no complete CIFAR-10 there"):
        from_root(tmp_path)


@pytest.mark.parametrize(
    ("shape", "damaged"),
    [
        (cifar10.FOLDER, f"{cifar10.FOLDER}/data_batch_3"),
        (cifar10.ARCHIVE, cifar10.ARCHIVE),
        (cifar10.BINARY_ARCHIVE, cifar10.BINARY_ARCHIVE),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(
    shape: str, damaged: str, imitation: Imitation, tmp_path: Path
) -> None:
    imitation.put(shape, tmp_path)
    flip(tmp_path / damaged, len(imitation.shapes[shape][damaged]) // 2)
    message = rf"{damaged} is not the published .* md5 is .*; replace it .*data fetch"
    with pytest.raises(NormbenchError, match=message):
        from_root(tmp_path).decode()


@pytest.mark.parametrize(
    ("file", "place", "value", "why"),
    [
        ("data_batch_2", slice(-1, None), b"", "30,729 bytes, not 30,730"),
        ("data_batch_2", slice(0, 1), b"\x0a", "labels from 0 to 10"),
        ("data_batch_2", slice(5, 7), b"\0\0", "sums of its colours"),
        # The label of the second image, given to the first as well.
        ("test_batch", slice(0, 1), None, "0 to 2 images per class"),
    ],
)
def test_a_damaged_binary_folder_is_named(
    file: str, place: slice, value: bytes | None, why: str, imitation: Imitation, tmp_path: Path
) -> None:
    path = imitation.put(cifar10.BINARY_FOLDER, tmp_path) / f"{file}.bin"
    data = bytearray(path.read_bytes())
    data[place] = data[3073:3074] if value is None else value
    path.write_bytes(data)
    with pytest.raises(NormbenchError, match=f"{cifar10.BINARY_FOLDER}.* is damaged: .*{why}"):
        from_root(tmp_path).decode()


def test_two_batches_in_each_other_s_place_are_named(imitation: Imitation, tmp_path: Path) -> None:
    folder = imitation.put(cifar10.BINARY_FOLDER, tmp_path)
    one, other = folder / "data_batch_2.bin", folder / "data_batch_4.bin"
    swapped = other.read_bytes(), one.read_bytes()
    for path, content in zip((one, other), swapped, strict=True):
        path.write_bytes(content)
    with pytest.raises(NormbenchError, match=r"data_batch_2.bin is not .*its first labels are \["):
        from_root(tmp_path).decode()


class Malicious:
    """Its pickle asks for os.system."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def test_a_malicious_pickle_is_refused_without_running(
    imitation: Imitation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = imitation.put(cifar10.FOLDER, tmp_path) / "data_batch_1"
    path.write_bytes(pickle.dumps(Malicious(tmp_path / "trace"), protocol=2))
    with pytest.raises(NormbenchError, match=r"data_batch_1 .* md5 is"):
        from_root(tmp_path).decode()
    # Even with a forged checksum.
    monkeypatch.setitem(cifar10.BATCH_MD5, "data_batch_1", md5(path.read_bytes()))
    with pytest.raises(NormbenchError, match=r"data_batch_1 .* asks to call posix\.system"):
        from_root(tmp_path).decode()
    assert not (tmp_path / "trace").exists()


def test_without_a_mirror_the_three_ways_out_are_named(
    imitation: Imitation, home: DataHome
) -> None:
    source = sources.build("cifar10", home)
    with pytest.raises(RunFailure) as failure:
        source.decode()
    message = str(failure.value)
    folder = str(home.cache_dir / "downloads")
    for way_out in ("`normbench data fetch --mirror URL`", folder, "`data=synthetic`"):
        assert way_out in message
    assert "http://127.0.0.1:9/nothing-there: cannot connect" in message
    assert "\n" not in message
    assert failure.value.exit_code == 1


def test_a_damaged_archive_in_the_downloads_is_fetched_again_or_named(
    imitation: Imitation, home: DataHome
) -> None:
    imitation.put(cifar10.ARCHIVE, home.cache_dir / "downloads").write_bytes(b"cut off")
    with pytest.raises(RunFailure, match="what is there now is damaged"):
        sources.build("cifar10", home).decode()


def test_the_archive_comes_from_the_users_mirrors_first(
    imitation: Imitation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def arrives(urls: tuple[str, ...], target: Path, *, md5: str, size: int) -> Path:
        asked.append(urls)
        path = imitation.put(cifar10.ARCHIVE, target.parent)
        assert (path, md5, size) == (target, cifar10.ARCHIVE_MD5, path.stat().st_size)
        return path

    monkeypatch.setattr(cifar10, "fetch", arrives)
    home = DataHome(cache_dir=tmp_path, mirrors=("https://mirror.example/c.tar.gz",))
    imitation.assert_is(sources.build("cifar10", home))
    assert asked == [("https://mirror.example/c.tar.gz", *cifar10.MIRRORS)]


def test_a_full_disk_is_not_answered_with_other_mirrors(
    home: DataHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> Path:
        raise RunFailure("disk full")

    monkeypatch.setattr(cifar10, "fetch", full)
    assert not issubclass(RunFailure, MirrorsFailed)
    with pytest.raises(RunFailure, match=r"^disk full$"):
        cifar10.fetch_archive(home)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_folder_or_archive_is_recognised(
    shape: str, imitation: Imitation, tmp_path: Path
) -> None:
    path = imitation.put(shape, tmp_path / "root")
    assert cifar10.is_cifar10(path)
    assert cifar10.is_cifar10(tmp_path / "root")
    assert cifar10.is_cifar10(path.rename(tmp_path / "renamed"))


def test_other_things_are_not_taken_for_cifar10(tmp_path: Path) -> None:
    (tmp_path / "text.tar.gz").write_text("no archive")
    (tmp_path / "other.tar").write_bytes(archive({"cat/1.png": b"", "dog/1.png": b""}))
    (tmp_path / "empty.tar").write_bytes(archive({}))
    for name in ("", "missing", "text.tar.gz", "other.tar", "empty.tar"):
        assert not cifar10.is_cifar10(tmp_path / name)


@pytest.mark.parametrize(("kind", "make"), STAND_INS.items())
@pytest.mark.parametrize("shape", SHAPES)
def test_what_stands_in_the_place_of_a_file_is_named(
    shape: str, kind: str, make: Callable[[Path], object], imitation: Imitation, tmp_path: Path
) -> None:
    path = imitation.put(shape, tmp_path)
    if path.is_dir():
        path /= "data_batch_3" if shape == cifar10.FOLDER else "data_batch_3.bin"
    put_in_place_of(path, make)
    with pytest.raises(NormbenchError, match=f"^'{path}' is {kind}; it must be a file$"):
        from_root(tmp_path).decode()


@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a socket"])
def test_a_root_that_is_neither_file_nor_folder_is_named(kind: str, tmp_path: Path) -> None:
    STAND_INS[kind](tmp_path / "root")
    rule = "must be a file or a folder"
    with pytest.raises(NormbenchError, match=f"data.root '{tmp_path}/root' is {kind}; {rule}"):
        from_root(tmp_path / "root")
    with pytest.raises(NormbenchError, match=f"'{tmp_path}/root' is {kind}; it {rule}"):
        recognise(tmp_path / "root")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_that_is_too_large_is_named_with_the_limit(
    shape: str, imitation: Imitation, tmp_path: Path
) -> None:
    path = imitation.put(shape, tmp_path)
    limit = "268,435,456"
    if path.is_dir():
        path /= "data_batch_3" if shape == cifar10.FOLDER else "data_batch_3.bin"
        limit = "67,108,864"
    sparse(path)
    size = f"has 1,099,511,627,776 bytes; at most {limit} are read"
    with pytest.raises(NormbenchError, match=f"'{path}' {size}"):
        from_root(tmp_path).decode()


def bomb_of_gzip() -> bytes:
    """A gigabyte of zeros as 1 MB; compressed in pieces, which gzip puts one after another."""
    return gzip.compress(bytes(10**8), compresslevel=1) * 10


def claims(kind: bytes, size: int, name: str = f"{cifar10.FOLDER}/data_batch_1") -> bytes:
    """An archive whose first header claims `size` bytes of a kind of member."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


HOSTILE: dict[str, Callable[[], bytes]] = {
    "a bomb": bomb_of_gzip,
    "a member of 100 GB": lambda: claims(tarfile.REGTYPE, 10**11),
    "a pax header of 100 GB": lambda: claims(tarfile.XHDTYPE, 10**11),
    "a long name of 100 GB": lambda: claims(tarfile.GNUTYPE_LONGNAME, 10**11),
    "a sparse member": lambda: claims(tarfile.GNUTYPE_SPARSE, 10**11),
    "an empty name": lambda: claims(tarfile.REGTYPE, 0, "."),
    "an endless name of gzip": lambda: b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + b"x" * 10**6,
    "no byte": lambda: b"",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_in_little_memory(
    kind: str, imitation: Imitation, tmp_path: Path
) -> None:
    content = HOSTILE[kind]()
    (tmp_path / cifar10.ARCHIVE).write_bytes(content)
    (tmp_path / "renamed").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(NormbenchError, match=r"is not the published .* its md5 is"):
        from_root(tmp_path).decode()
    # With the right first name it is taken for an archive, and refused by its md5 later.
    if cifar10.is_cifar10(tmp_path / "renamed"):
        with pytest.raises(NormbenchError, match=r"is not the published .* its md5 is"):
            from_root(tmp_path / "renamed").decode()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22
