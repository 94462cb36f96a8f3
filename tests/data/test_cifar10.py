"""The official CIFAR-10 source, on a tiny imitation of it in all four published shapes."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torchvision
from numpy.typing import NDArray

from normbench.data.fetch.download import MirrorsFailed
from normbench.data.formats import cifar10
from normbench.data.source import DataHome, Source, Split, sources
from normbench.errors import NormbenchError, RunFailure

ROWS = 10
SHAPES = [cifar10.FOLDER, cifar10.ARCHIVE, cifar10.BINARY_FOLDER, cifar10.BINARY_ARCHIVE]


def python2_pickle(pixels: NDArray[np.uint8], labels: list[int]) -> bytes:
    """What Python 2 and the numpy of its time wrote for {'data': pixels, 'labels': labels}, opcode by opcode."""
    data = pixels.tobytes()
    empty = (
        b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\x00\x85U\x01b\x87R"
    )
    dtype = (
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shape = (
        b"J"
        + struct.pack("<i", pixels.shape[0])
        + b"J"
        + struct.pack("<i", pixels.shape[1])
        + b"\x86"
    )
    array = (
        empty + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(data)) + data + b"tb"
    )
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + listed + b"u."


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@dataclass(frozen=True)
class Imitation:
    """`files` by their name in each of the four shapes, and the arrays all of them hold."""

    shapes: dict[str, dict[str, bytes]]
    train: Split
    test: Split

    def put(self, shape: str, folder: Path) -> Path:
        """Writes one shape into `folder`; returns its path."""
        for name, data in self.shapes[shape].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder / shape


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in sorted(
            files, reverse=True
        ):  # Not in the order wanted, as in the published one.
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            tar.addfile(member, io.BytesIO(files[name]))
    return buffer.getvalue()


@pytest.fixture
def imitation(monkeypatch: pytest.MonkeyPatch) -> Imitation:
    """CIFAR-10 with 10 images per batch, whose checksums, sizes and sums stand in for the published ones."""
    generator = np.random.default_rng(0)
    pixels = {
        name: generator.integers(0, 256, (ROWS, 3072), dtype=np.uint8) for name in cifar10.BATCH_MD5
    }
    labels = {name: generator.permutation(10).astype(np.uint8) for name in cifar10.BATCH_MD5}
    python = {name: python2_pickle(pixels[name], labels[name].tolist()) for name in pixels}
    rows = {name: np.hstack([labels[name][:, None], pixels[name]]).tobytes() for name in pixels}
    folder = {f"{cifar10.FOLDER}/{name}": data for name, data in python.items()}
    folder[f"{cifar10.FOLDER}/batches.meta"] = pickle.dumps(
        {"label_names": list(cifar10.CLASSES)}, protocol=2
    )
    binary = {f"{cifar10.BINARY_FOLDER}/{name}.bin": data for name, data in rows.items()}
    binary[f"{cifar10.BINARY_FOLDER}/batches.meta.txt"] = "\n".join(cifar10.CLASSES).encode()
    images = np.stack(list(pixels.values())).reshape(6, ROWS, 3, 32, 32)
    targets = np.stack(list(labels.values())).astype(np.int64)
    train = Split.of(images=images[:5].reshape(-1, 3, 32, 32), labels=targets[:5].reshape(-1))
    test = Split.of(images=images[5], labels=targets[5])

    shapes = {cifar10.FOLDER: folder, cifar10.BINARY_FOLDER: binary}
    shapes[cifar10.ARCHIVE] = {cifar10.ARCHIVE: archive(folder)}
    shapes[cifar10.BINARY_ARCHIVE] = {cifar10.BINARY_ARCHIVE: archive(binary)}
    monkeypatch.setattr(cifar10, "ROWS", ROWS)
    monkeypatch.setattr(cifar10, "BATCH_MD5", {name: md5(data) for name, data in python.items()})
    monkeypatch.setattr(cifar10, "ARCHIVE_MD5", md5(shapes[cifar10.ARCHIVE][cifar10.ARCHIVE]))
    monkeypatch.setattr(cifar10, "ARCHIVE_SIZE", len(shapes[cifar10.ARCHIVE][cifar10.ARCHIVE]))
    monkeypatch.setattr(
        cifar10, "BINARY_ARCHIVE_MD5", md5(shapes[cifar10.BINARY_ARCHIVE][cifar10.BINARY_ARCHIVE])
    )
    monkeypatch.setattr(
        cifar10, "TRAIN_SUMS", tuple(train["images"].sum((0, 2, 3), dtype=int).tolist())
    )
    monkeypatch.setattr(
        cifar10, "TEST_SUMS", tuple(test["images"].sum((0, 2, 3), dtype=int).tolist())
    )
    monkeypatch.setattr(cifar10, "MIRRORS", ("http://127.0.0.1:9/nothing-there",))
    return Imitation(shapes, train, test)


@pytest.fixture
def home(tmp_path: Path) -> DataHome:
    return DataHome(cache_dir=tmp_path / "cache")


def from_root(home: DataHome, root: Path) -> Source:
    return sources.build("cifar10", home, options={"root": str(root)})


def assert_decodes_to(source: Source, expected: Imitation) -> None:
    for split, wanted in zip(source.decode(), (expected.train, expected.test), strict=True):
        assert (split["images"].dtype, split["labels"].dtype) == (np.uint8, np.int64)
        np.testing.assert_array_equal(split["images"], wanted["images"])
        np.testing.assert_array_equal(split["labels"], wanted["labels"])


def test_its_identity_needs_no_file(home: DataHome) -> None:
    source = sources.build("cifar10", home)
    assert (source.name, source.content) == ("cifar10", "md5-c58f30108f718f92721af3b95e74349a")
    assert (source.num_train, source.num_test, source.image_shape) == (50_000, 10_000, (3, 32, 32))
    assert source.classes == (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
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
        np.testing.assert_allclose(
            np.array(sums) / (num_images * 1024 * 255), means, rtol=0, atol=5.1e-9
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_read_to_the_same_arrays(
    shape: str, imitation: Imitation, home: DataHome, tmp_path: Path
) -> None:
    path = imitation.put(shape, tmp_path / "root")
    assert_decodes_to(from_root(home, tmp_path / "root"), imitation)
    assert_decodes_to(from_root(home, path), imitation)
    assert not home.cache_dir.exists()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_used_from_the_downloads(
    shape: str, imitation: Imitation, home: DataHome
) -> None:
    imitation.put(shape, home.cache_dir / "downloads")
    assert_decodes_to(sources.build("cifar10", home), imitation)


def test_torchvision_reads_the_same_from_the_same_folder(
    imitation: Imitation, home: DataHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = imitation.put(cifar10.FOLDER, tmp_path)
    theirs = torchvision.datasets.CIFAR10
    listed = [[name, checksum] for name, checksum in cifar10.BATCH_MD5.items()]
    monkeypatch.setattr(theirs, "train_list", listed[:5])
    monkeypatch.setattr(theirs, "test_list", listed[5:])
    monkeypatch.setattr(
        theirs, "meta", theirs.meta | {"md5": md5((folder / "batches.meta").read_bytes())}
    )
    for split, is_train in zip(from_root(home, tmp_path).decode(), (True, False), strict=True):
        expected = theirs(tmp_path, train=is_train)
        np.testing.assert_array_equal(split["images"].transpose(0, 2, 3, 1), expected.data)
        np.testing.assert_array_equal(split["labels"], expected.targets)
        assert tuple(expected.classes) == cifar10.CLASSES


def test_pickles_of_today_are_read_too(
    imitation: Imitation, home: DataHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = imitation.put(cifar10.FOLDER, tmp_path) / "test_batch"
    pixels, labels = imitation.test["images"].reshape(ROWS, -1), imitation.test["labels"].tolist()
    path.write_bytes(pickle.dumps({"data": pixels, "labels": labels}, protocol=2))
    monkeypatch.setitem(cifar10.BATCH_MD5, "test_batch", md5(path.read_bytes()))
    assert_decodes_to(from_root(home, tmp_path), imitation)


@pytest.mark.parametrize(
    ("content", "state"),
    [(None, "no such file or folder"), ("README", "no complete CIFAR-10 there")],
)
def test_a_root_without_cifar10_is_refused_when_the_source_is_built(
    content: str | None, state: str, home: DataHome, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    if content:
        root.mkdir()
        (root / content).write_text("nothing here")
    with pytest.raises(
        NormbenchError, match=rf"data.root '.*root': {state}; must be, or hold, cifar-10-batc"
    ) as error:
        from_root(home, root)
    assert error.value.exit_code == 2


def test_a_folder_that_lacks_a_batch_is_refused_when_the_source_is_built(
    imitation: Imitation, home: DataHome, tmp_path: Path
) -> None:
    (imitation.put(cifar10.FOLDER, tmp_path) / "data_batch_4").unlink()
    with pytest.raises(NormbenchError, match="no complete CIFAR-10 there"):
        from_root(home, tmp_path)


@pytest.mark.parametrize(
    ("shape", "damaged"),
    [
        (cifar10.FOLDER, f"{cifar10.FOLDER}/data_batch_3"),
        (cifar10.ARCHIVE, cifar10.ARCHIVE),
        (cifar10.BINARY_ARCHIVE, cifar10.BINARY_ARCHIVE),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(
    shape: str, damaged: str, imitation: Imitation, home: DataHome, tmp_path: Path
) -> None:
    imitation.put(shape, tmp_path)
    data = bytearray((tmp_path / damaged).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / damaged).write_bytes(data)
    with pytest.raises(
        NormbenchError,
        match=rf"{damaged} is not the published .* md5 is .*; replace it .*data fetch",
    ):
        from_root(home, tmp_path).decode()


@pytest.mark.parametrize(
    ("position", "value", "why"),
    [
        (None, 0, "30,729 bytes, not 30,730"),
        (0, 10, "labels from 0 to 10"),
        (5, None, "sums of its colours"),
    ],
)
def test_a_damaged_binary_folder_is_named(
    position: int | None,
    value: int | None,
    why: str,
    imitation: Imitation,
    home: DataHome,
    tmp_path: Path,
) -> None:
    path = imitation.put(cifar10.BINARY_FOLDER, tmp_path) / "data_batch_2.bin"
    data = bytearray(path.read_bytes())
    if position is None:
        data.pop()
    else:
        data[position] = data[position] ^ 1 if value is None else value
    path.write_bytes(data)
    with pytest.raises(NormbenchError, match=f"{cifar10.BINARY_FOLDER}.* is damaged: .*{why}"):
        from_root(home, tmp_path).decode()


def test_labels_of_a_binary_folder_must_be_balanced(
    imitation: Imitation, home: DataHome, tmp_path: Path
) -> None:
    path = imitation.put(cifar10.BINARY_FOLDER, tmp_path) / "test_batch.bin"
    data = bytearray(path.read_bytes())
    data[0] = (data[0] + 1) % 10
    path.write_bytes(data)
    with pytest.raises(NormbenchError, match="0 to 2 images per class"):
        from_root(home, tmp_path).decode()


class Malicious:
    """Its pickle asks for os.system."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def test_a_malicious_pickle_is_refused_without_running(
    imitation: Imitation, home: DataHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = imitation.put(cifar10.FOLDER, tmp_path) / "data_batch_1"
    path.write_bytes(pickle.dumps(Malicious(tmp_path / "trace"), protocol=2))
    with pytest.raises(NormbenchError, match=r"data_batch_1 .* md5 is"):
        from_root(home, tmp_path).decode()
    monkeypatch.setitem(
        cifar10.BATCH_MD5, "data_batch_1", md5(path.read_bytes())
    )  # Even with a forged checksum.
    with pytest.raises(NormbenchError, match=r"data_batch_1 .* asks to call posix\.system"):
        from_root(home, tmp_path).decode()
    assert not (tmp_path / "trace").exists()


def test_without_a_mirror_the_three_ways_out_are_named(
    imitation: Imitation, home: DataHome
) -> None:
    source = sources.build("cifar10", home)
    with pytest.raises(RunFailure) as failure:
        source.decode()
    message = str(failure.value)
    for way_out in (
        "`normbench data fetch --mirror URL`",
        str(home.cache_dir / "downloads"),
        "`data=synthetic`",
    ):
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
    assert_decodes_to(sources.build("cifar10", home), imitation)
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
