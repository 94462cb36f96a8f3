"""A disk that goes wrong at a chosen request to open, write, sync, make, rename or remove."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

Act = Callable[[], None]
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.ESTALE)


class Disk:
    """Counts the requests that change the disk; at the one numbered `at`, something happens.

    lasting: it happens at all later requests too, as on a full disk.
    """

    def __init__(self, act: Act, at: int | None = None, *, lasting: bool = False) -> None:
        self.act = act
        self.at = at
        self.lasting = lasting
        self.number = 0

    def ask(self, half: Act | None = None) -> None:
        """Counts a request, of which `half` is done before anything happens."""
        self.number += 1
        is_due = self.number == self.at
        if self.lasting and self.at is not None:
            is_due = self.number >= self.at
        if is_due:
            if half is not None:
                half()
            self.act()


class _File:
    """An opened file whose writes are requests, and are done half before anything happens."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file = file
        self._disk = disk

    def write(self, content: bytes) -> int:
        def half() -> None:
            self._file.write(content[: len(content) // 2])
            self._file.flush()

        self._disk.ask(half)
        written: int = self._file.write(content)
        return written

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def asked(disk: Disk) -> Iterator[Disk]:
    """Within, the requests of this process go through `disk`."""
    opened, fsync = Path.open, os.fsync

    def open_counted(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode in ("r", "rb"):
            return opened(self, mode, *arguments, **options)
        disk.ask()
        return _File(opened(self, mode, *arguments, **options), disk)

    def fsync_counted(descriptor: int) -> None:
        disk.ask()
        fsync(descriptor)

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def ask_first(*arguments: Any, **options: Any) -> Any:
            disk.ask()
            return method(*arguments, **options)

        return ask_first

    with (
        mock.patch.multiple(
            Path,
            open=open_counted,
            replace=counted(Path.replace),
            rename=counted(Path.rename),
            unlink=counted(Path.unlink),
            mkdir=counted(Path.mkdir),
        ),
        mock.patch.object(os, "fsync", fsync_counted),
    ):
        yield disk


def refuse(code: int) -> Act:
    """A request that raises the OSError of this number."""

    def act() -> None:
        raise OSError(code, os.strerror(code), "a file")

    return act


def die() -> None:
    """Ends this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
