"""Checksums, by which a file that was changed after it was written is recognised.

JSON files carry theirs in the key `checksum`, other bytes at their end; a folder of tables has a
file SHA256SUMS, which `sha256sum --check` reads too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from normbench.atomic import disk_errors, read_file, write_text
from normbench.errors import RunFailure

SUMS = "SHA256SUMS"
KEY = "checksum"
LAST_LINE = b"\nsha256 "


def digest_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a JSON file with the checksum of all other keys."""
    return {**content, KEY: _checksum(content)}


def unsealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content without its checksum. Raises ValueError for a wrong or a missing checksum."""
    plain = {key: value for key, value in content.items() if key != KEY}
    if content.get(KEY) != _checksum(plain):
        raise ValueError("its checksum is wrong")
    return plain


def sealed_bytes(content: bytes) -> bytes:
    """The content with a last line of its checksum; readers of zip archives pass over the line."""
    return content + LAST_LINE + hashlib.sha256(content).hexdigest().encode() + b"\n"


def unsealed_bytes(content: bytes) -> bytes:
    """The content without the last line. Raises ValueError for a wrong or a missing checksum."""
    plain, _, _ = content.rpartition(LAST_LINE)
    if sealed_bytes(plain) != content:
        raise ValueError("its checksum is wrong")
    return plain


def record_sums(folder: Path, names: Iterable[str]) -> None:
    """Writes the present checksums of these files into SHA256SUMS; lines of other files stay."""
    sums = read_sums(folder)
    for name in names:
        sums[name] = digest_of(folder / name)
    write_sums(folder, sums)


def write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Writes SHA256SUMS with these checksums by file name, as `sha256sum --check` reads it."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
    write_text(folder / SUMS, "".join(lines))


def read_sums(folder: Path) -> dict[str, str]:
    """The checksums in SHA256SUMS by file name; {} without the file."""
    file = folder / SUMS
    if not file.exists():
        return {}
    text = read_file(file).decode(errors="replace")
    lines = [line.partition("  ") for line in text.splitlines()]
    return {name: digest for digest, _, name in lines}


def check_sum(file: Path) -> None:
    """Raises RunFailure for a file that differs from its line in SHA256SUMS, or is missing."""
    known = read_sums(file.parent).get(file.name)
    if known is None:
        return
    with disk_errors(file, "read"):
        is_same = file.is_file() and digest_of(file) == known
    if not is_same and not file.exists():
        raise RunFailure(f"'{file}' is missing, and {SUMS} names it")
    if not is_same:
        how = "was changed after it was written, or the writing of the folder was broken off"
        raise RunFailure(f"'{file}' {how}: {SUMS} has another checksum")


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
