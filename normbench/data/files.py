"""Reads the user's files: only regular files, of a bounded size, with every fault in one line.

Opening a FIFO or a device can wait forever, and a sparse file of a kilobyte can claim a terabyte.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from normbench.errors import NormbenchError
from normbench.text import visible

KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns an OSError into a NormbenchError of one line with the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise NormbenchError(f"{str(path)!r} cannot be read: {reason}") from None


def kind_of(path: Path) -> str:
    """What stands at `path`, such as "a folder". Raises NormbenchError where nothing does."""
    with reading(path):
        return KINDS[stat.S_IFMT(path.stat().st_mode)]


def require_file(path: Path, most: int) -> int:
    """The size in bytes of a regular file of at most `most` bytes; NormbenchError for others."""
    kind = kind_of(path)
    if kind != "a file":
        raise NormbenchError(f"{str(path)!r} is {kind}; it must be a file")
    with reading(path):
        size = path.stat().st_size
    if size > most:
        raise NormbenchError(f"{str(path)!r} has {size:,} bytes; at most {most:,} are read")
    return size


def read(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes; NormbenchError for others."""
    size = require_file(path, most)
    with reading(path), path.open("rb") as file:
        # Not without a size: the file may be growing.
        return file.read(size)


def entries(folder: Path) -> list[Path]:
    """What a folder holds, by name and without hidden entries; NormbenchError if unreadable.

    Path.glob would pass an unreadable folder over in silence.
    """
    with reading(folder):
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def require_printable(path: Path) -> None:
    """Raises NormbenchError for a name that tables, captions and YAML cannot hold."""
    # What is not printable includes bytes that are not UTF-8, which Python keeps as surrogates.
    if not path.name.isprintable():
        rule = "its name must be UTF-8 without control characters: rename it"
        raise NormbenchError(f"{str(path)!r}: {rule}")


def printable(text: str, most: int = 300) -> str:
    """Text from a stranger for a line of a message: escaped and cut to `most` characters."""
    return visible(text[:most])
