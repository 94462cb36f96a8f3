"""Files made to do harm: images that claim to be huge, things in the place of files."""

from __future__ import annotations

import os
import resource
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file, with the right checksum."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(width: int, height: int, *chunks: bytes, rows: int | None = None) -> bytes:
    """A black PNG image; with fewer `rows` than `height` its header claims what is not there."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 + 3 * width) * (height if rows is None else rows), level=1)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return PNG + b"".join(parts)


def text_bombs(count: int) -> list[bytes]:
    """PNG chunks of a kilobyte, of which each is a megabyte of text."""
    return [chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 10**6)) for _ in range(count)]


def sparse(path: Path) -> None:
    """A file that claims a terabyte and takes no room."""
    with path.open("ab") as file:
        os.truncate(file.fileno(), 2**40)


def listen(path: Path) -> None:
    """A socket in the place of a file."""
    with socket.socket(socket.AF_UNIX) as server:
        # The address of a socket has at most 108 bytes.
        server.bind(f"/proc/self/fd/{os.open(path.parent, os.O_RDONLY)}/{path.name}")


# What may stand in the place of a file, by the words for it in a message.
STAND_INS: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a folder": os.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": listen,
}


def put_in_place_of(path: Path, make: Callable[[Path], object]) -> None:
    """Replaces a file by what `make` makes."""
    path.unlink(missing_ok=True)
    make(path)


@contextmanager
def memory_of_a_test(gib: float = 4.0) -> Iterator[None]:
    """Bounds what this process may map beyond what it has mapped."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def in_little_memory(program: str, *arguments: str, gib: float = 1.0) -> str:
    """Runs a Python program whose address space is bounded; returns what it prints."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({int(gib * 2**30)},) * 2)\n"
    command = [sys.executable, "-c", limit + program, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
