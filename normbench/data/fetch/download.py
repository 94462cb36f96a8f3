"""Fetches a file of known size and checksum from several mirrors, for formats/cifar10.py.

A `.part` file grows beside the target, from any mirror: the checksum makes mirrors interchangeable.
The target appears in one step, complete and checked; a kill leaves a `.part` to go on from.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from tqdm import tqdm

from normbench.data.fetch.mirror import Left, Pace, Wanted, complete, say
from normbench.data.files import kind_of
from normbench.errors import NormbenchError, RunFailure


class MirrorsFailed(RunFailure):
    """No mirror gave the file; the message has the reason of each."""


def fetch(urls: Sequence[str], target: Path, *, md5: str, size: int) -> Path:
    """Returns `target` once its content has `size` bytes and the checksum `md5`.

    Mirrors are asked in the order given. In the first round a slow mirror is left for the next; the
    second round asks slow and unreachable mirrors again, and waits as long as 1 kB/s arrive. A
    second process fetching the same file waits for the first.

    Raises NormbenchError for an address other than http or https, MirrorsFailed with the reason of
    each mirror, and RunFailure where the disk is full, refuses, or has no file under its name.
    """
    for url in urls:
        _require_http(url)
    wanted = Wanted(target.with_name(f"{target.name}.part"), md5, size)
    for path in (target, wanted.part):
        _require_file_or_nothing(path)
    try:
        if _is_complete(target, wanted):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target):
            # The process before may have fetched the file.
            if not _is_complete(target, wanted):
                _require_space(wanted)
                _load(urls, wanted)
                # Renamed first, an empty target could be left by a power cut.
                with wanted.part.open("r+b") as file:
                    os.fsync(file.fileno())
                wanted.part.replace(target)
    # Errors of the network have become a mirror's reason: only the disk's arrive here.
    except OSError as error:
        message = f"cannot use {error.filename or wanted.part}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            needs = f"{wanted.part} needs {wanted.size:,} bytes, has {wanted.present:,}"
            message = f"disk full: {needs}; make room and go on"
        raise RunFailure(message) from error
    return target


def md5_of(path: Path) -> str:
    """The md5 of a file: shows damage, not malice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _require_http(url: str) -> None:
    try:
        is_http = urlsplit(url).scheme in ("http", "https") and url.isprintable()
    except ValueError:
        is_http = False
    if not is_http:
        address = "an http:// or https:// address of the file"
        raise NormbenchError(f"mirror {url!r}: must be {address}")


def _require_file_or_nothing(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise RunFailure(f"cannot use {path}: it is {kind_of(path)}, and must be a file")


def _is_complete(target: Path, wanted: Wanted) -> bool:
    has_size = target.is_file() and target.stat().st_size == wanted.size
    return has_size and md5_of(target) == wanted.md5


def _lock(target: Path) -> FileLock:
    lock = FileLock(target.with_name(f"{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
        lock.release()
    except Timeout:
        say(f"waiting for another process that is fetching {target}")
    return lock


def _require_space(wanted: Wanted) -> None:
    if wanted.present > wanted.size:
        wanted.part.unlink()
    if shutil.disk_usage(wanted.part.parent).free < wanted.size - wanted.present:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _load(urls: Sequence[str], wanted: Wanted) -> None:
    failures: dict[str, Left] = {}
    name = wanted.part.stem
    # disable=None draws no bar where stderr is not a terminal; lines are printed either way.
    bar = tqdm(total=wanted.size, unit="B", unit_scale=True, desc=name, disable=None, leave=False)
    with bar:
        for patient in (False, True):
            for url in dict.fromkeys(urls):
                if url in failures and not failures[url].again:
                    continue
                try:
                    _load_from(url, wanted, Pace(patient), bar)
                    return
                except Left as left:
                    say(f"left {url}: {left}")
                    failures[url] = left
    kept = f" ({wanted.present:,} of {wanted.size:,} bytes are kept)" if wanted.present else ""
    listed = "; ".join(f"{url}: {left}" for url, left in failures.items())
    raise MirrorsFailed(f"no mirror gave {name}{kept}: {listed}")


def _load_from(url: str, wanted: Wanted, pace: Pace, bar: tqdm[Any]) -> None:
    """Completes and checks the part with one mirror, or raises Left."""
    while True:
        resumed = wanted.present > 0
        complete(url, wanted, pace, bar)
        if md5_of(wanted.part) == wanted.md5:
            return
        wanted.part.unlink()
        if not resumed:
            raise Left("wrong checksum", again=False)
        # The wrong bytes may be another mirror's, found on disk: this mirror gets a second try.
        say(f"{wanted.part} had a wrong checksum: starting over")
