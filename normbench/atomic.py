"""Writing files so that a kill, a power cut or a full disk leaves the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from normbench.errors import RunFailure


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces `path` by `content` at once. Raises RunFailure on a full disk, and leaves the old file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(path):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """`write_bytes` of indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def append_line(path: Path, line: str, *, durable: bool) -> None:
    """Appends `line` and its newline in one write: a kill leaves all of it or none. `durable` waits for the disk."""
    with disk_errors(path), path.open("ab", buffering=0) as file:
        content = line.encode() + b"\n"
        if file.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if durable:
            os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Waits until the disk has what was appended to `path`, if there is such a file."""
    if path.exists():
        with disk_errors(path), path.open("ab") as file:
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until the disk knows the names in `folder`; a system that cannot sync a folder is left alone."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns what the disk refuses into one line that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RunFailure(
                f"the disk is full: '{path}' is not written; what was there before is intact"
            ) from None
        raise RunFailure(f"'{path}' cannot be written: {error.strerror}") from None
