"""A CSV file to which one process appends rows, and of which it knows the checksum so far."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normbench.atomic import append_line, disk_errors, read_file, write_bytes
from normbench.checksums import digest_of
from normbench.runs.state import changed_meanwhile, damaged

Mark = tuple[int, str]  # the size of a file in bytes, and the sha256 of so much of it
START: Mark = (0, hashlib.sha256().hexdigest())


@dataclass
class Rows:
    """The rows of a file, as far as this process has written or checked them."""

    path: Path
    _size: int = 0
    _sha256: Any = field(default_factory=hashlib.sha256)

    @property
    def mark(self) -> Mark:
        """Where the file ends now, for `go_back`."""
        return self._size, self._sha256.hexdigest()

    def append(self, row: Mapping[str, Any], *, durable: bool) -> None:
        """Writes a row, and the header before the first; durable: also waits for the disk."""
        lines: list[Iterable[Any]] = [row.values()]
        if self._size == 0:
            lines.insert(0, row.keys())
        for line in map(_line, lines):
            append_line(self.path, line, durable=durable)
            self._count(line.encode() + b"\n")

    def go_back(self, mark: Mark) -> None:
        """Cuts the file to a mark. Raises RunFailure where its bytes up to there have changed."""
        size, sha256 = mark
        content = read_file(self.path) if self.path.exists() else b""
        kept = content[:size]
        if hashlib.sha256(kept).hexdigest() != sha256:
            raise damaged(self.path)
        if size == 0:
            self.discard()
        elif len(content) > size:
            write_bytes(self.path, kept)
        self._size, self._sha256 = size, hashlib.sha256(kept)

    def discard(self) -> None:
        """Removes the file."""
        with disk_errors(self.path):
            self.path.unlink(missing_ok=True)
        self._size, self._sha256 = 0, hashlib.sha256()

    def check(self) -> None:
        """Raises RunFailure where the file is not as this process wrote it."""
        with disk_errors(self.path):
            found = digest_of(self.path) if self.path.exists() else START[1]
        if found != self._sha256.hexdigest():
            raise changed_meanwhile(self.path)

    def _count(self, content: bytes) -> None:
        self._size += len(content)
        self._sha256.update(content)


def _line(values: Iterable[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(values)
    return buffer.getvalue()
