"""Fetches one file of known size and checksum from several mirrors; cifar10.py calls it.

Written because the usual way (one host, no resume, straight onto the final name) takes an hour at 50 kB/s and starts
over when it breaks off. Here a `.part` file grows beside the target, whichever mirror its bytes come from: the
checksum makes mirrors interchangeable. The target appears in one step, complete and checked, so that Ctrl-C, kill and
a second process at the same time can leave nothing but a `.part` to go on from (and a `.lock`, which is empty).
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
from normbench.errors import NormbenchError, RunFailure


class MirrorsFailed(RunFailure):
    """No mirror gave the file; the message has each one's reason."""


def fetch(
    urls: Sequence[str],
    target: Path,
    *,
    md5: str,
    size: int,
    min_rate: float = 100_000,
    window_seconds: float = 15,
    timeout: float = 20,
) -> Path:
    """Returns `target` once it is the file of `size` bytes with checksum `md5`, loading what is missing of it.

    Mirrors are asked in the order given. In a first round one that brings fewer than `min_rate` bytes per second over
    `window_seconds` is left for the next; a second round asks those that were slow or out of reach again, and waits.
    A second process that wants the same file waits for the first and finds it there.

    Raises NormbenchError for an address that is not http or https, MirrorsFailed with each mirror's reason, and
    RunFailure where the disk is full or refuses.
    """
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https"):
            raise NormbenchError(
                f"mirror '{url}': must be an http:// or https:// address of the file"
            )
    wanted = Wanted(target.with_name(f"{target.name}.part"), md5, size)
    try:
        if not _is_there(target, md5):
            target.parent.mkdir(parents=True, exist_ok=True)
            with _lock(target):
                if not _is_there(target, md5):
                    _require_space(wanted)
                    _load(urls, wanted, min_rate, window_seconds, timeout)
                    _move(wanted.part, target)
    except OSError as error:  # Only the disk's: those of the network have become a mirror's reason.
        raise RunFailure(_disk_trouble(error, wanted)) from error
    return target


def md5_of(path: Path) -> str:
    """The md5 of a file, which tells the published bytes from damaged ones (not from malicious ones)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _is_there(target: Path, md5: str) -> bool:
    return target.is_file() and md5_of(target) == md5


def _lock(target: Path) -> FileLock:
    """The lock to take before loading; says so when that means to wait."""
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


def _load(
    urls: Sequence[str], wanted: Wanted, min_rate: float, window_seconds: float, timeout: float
) -> None:
    """Completes the part, or raises MirrorsFailed."""
    reasons: dict[str, str] = {}
    to_ask = list(dict.fromkeys(urls))
    # With disable=None there is no bar where stderr is not a terminal; the plain lines are there either way.
    with tqdm(
        total=wanted.size,
        unit="B",
        unit_scale=True,
        desc=wanted.part.stem,
        disable=None,
        leave=False,
    ) as bar:
        for rate in (min_rate, 0.0):
            again = []
            for url in to_ask:
                try:
                    _load_from(url, wanted, Pace(rate, window_seconds), timeout, bar)
                    return
                except Left as left:
                    say(f"left {url}: {left}")
                    reasons[url] = str(left)
                    if left.again:
                        again.append(url)
            to_ask = again
    kept = f" ({wanted.present:,} of {wanted.size:,} bytes are kept)" if wanted.present else ""
    listed = "; ".join(f"{url}: {reason}" for url, reason in reasons.items()) or "no mirrors given"
    raise MirrorsFailed(f"no mirror gave {wanted.part.stem}{kept}: {listed}")


def _load_from(url: str, wanted: Wanted, pace: Pace, timeout: float, bar: tqdm[Any]) -> None:
    """Completes and checks the part with one mirror, or raises Left."""
    while True:
        resumed = wanted.present > 0
        complete(url, wanted, pace, timeout, bar)
        if md5_of(wanted.part) == wanted.md5:
            return
        wanted.part.unlink()
        if not resumed:
            raise Left("wrong checksum", again=False)
        # The wrong bytes may be those found on disk, another mirror's; this one has not been shown to be wrong.
        say(f"{wanted.part} had a wrong checksum: starting over")


def _move(part: Path, target: Path) -> None:
    with part.open("r+b") as file:
        os.fsync(file.fileno())
    part.replace(target)


def _disk_trouble(error: OSError, wanted: Wanted) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"disk full: {wanted.part} needs {wanted.size:,} bytes, has {wanted.present:,}; make room and go on"
    return f"cannot use {error.filename or wanted.part}: {error.strerror or error}"
