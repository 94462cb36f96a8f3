"""Writes files so that a kill, a power cut or a full disk leaves the old or the new file whole."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from normbench.errors import RunFailure


def write_bytes(path: Path, content: bytes, *, keep: Path | None = None) -> None:
    """Replaces `path` by `content` at once; `keep` is a name for what was there before.

    Raises RunFailure where the disk refuses.
    """
    # Renaming is atomic within a folder; the process id keeps two writers apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(path):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                # A rename may reach the disk before unsynced bytes, leaving an empty file.
                os.fsync(file.fileno())
            if keep is not None and path.exists():
                path.replace(keep)
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    r"""Replaces `path` by UTF-8 text at once; half a surrogate pair is written as `\ud800`."""
    write_bytes(path, content.encode(errors="backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Replaces `path` by indented JSON at once."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_file(path: Path) -> bytes:
    """The content of a regular file. Raises RunFailure for anything else, and as the disk does."""
    require_file(path)
    with disk_errors(path, "read"):
        return path.read_bytes()


def require_file(path: Path) -> None:
    """Raises RunFailure for anything but a regular file: opening a pipe would wait for ever."""
    with disk_errors(path, "read"):
        if not path.is_file():
            raise RunFailure(f"'{path}' cannot be read: it is no file")


def append_line(path: Path, line: str, *, durable: bool) -> None:
    """Appends a line in a single write; raises where only a part was written, as on a full disk.

    durable: also waits for the disk.
    """
    with disk_errors(path), path.open("ab", buffering=0) as file:
        content = line.encode() + b"\n"
        # An unbuffered write to a full disk may write a part and report no error.
        if file.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if durable:
            os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Waits until the disk has the content of `path`; does nothing for a missing file."""
    if path.exists():
        with disk_errors(path), path.open("ab") as file:
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the names in `folder`, on systems able to sync a folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def disk_errors(path: Path, done: str = "written") -> Iterator[None]:
    """Turns an OSError into a RunFailure of one line with the file's name."""
    try:
        yield
    except OSError as error:
        message = f"'{path}' cannot be {done}: {error.strerror or error}"
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if is_full and done == "written":
            message = f"the disk is full: '{path}' is not written; what was there before is intact"
        raise RunFailure(message) from None
