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
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from filelock import FileLock, Timeout
from tqdm import tqdm

from normbench.errors import NormbenchError, RunFailure

CHUNK = 1 << 16
NUM_ATTEMPTS = 10  # Connections to one mirror in one round, as long as each brings the file further.
PAUSE_SECONDS = 1.0  # Before going on where a connection broke off.


class MirrorsFailed(RunFailure):
    """No mirror gave the file; the message has each one's reason."""


class _Left(Exception):
    """Why a mirror is left for the next one; `again`: it may be asked once more in the second round."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(" ".join(reason.split()))
        self.again = again


class _BrokenOff(Exception):
    """The connection ended in the middle of the file."""


@dataclass(frozen=True)
class _Wanted:
    """The file as it should be, and where it grows."""

    part: Path
    md5: str
    size: int

    @property
    def present(self) -> int:
        """Bytes of it already on disk."""
        return self.part.stat().st_size if self.part.exists() else 0


class _Pace:
    """Raises _Left at the end of a window in which fewer than `min_rate` bytes per second came."""

    def __init__(self, min_rate: float, window_seconds: float) -> None:
        self.min_rate, self.window_seconds = min_rate, window_seconds
        self._start, self._num_bytes = time.monotonic(), 0

    def add(self, num_bytes: int) -> None:
        """Counts what has come; 0 where a connection broke off, so that a mirror that only stalls is left too."""
        self._num_bytes += num_bytes
        elapsed = time.monotonic() - self._start
        if elapsed < self.window_seconds:
            return
        if self._num_bytes < self.min_rate * elapsed:
            rate = self._num_bytes / elapsed / 1000
            raise _Left(f"too slow ({rate:.3g} kB/s, wanted {self.min_rate / 1000:.3g})", again=True)
        self._start, self._num_bytes = time.monotonic(), 0


class _NoDowngrade(HTTPRedirectHandler):
    """Follows redirects, but not from https to http."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            fp.close()
            raise _Left(f"redirects from https to {newurl}", again=False)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


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
            raise NormbenchError(f"mirror '{url}': must be an http:// or https:// address of the file")
    wanted = _Wanted(target.with_name(f"{target.name}.part"), md5, size)
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
        _say(f"waiting for another process that is fetching {target}")
    return lock


def _require_space(wanted: _Wanted) -> None:
    if wanted.present > wanted.size:
        wanted.part.unlink()
    if shutil.disk_usage(wanted.part.parent).free < wanted.size - wanted.present:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _load(urls: Sequence[str], wanted: _Wanted, min_rate: float, window_seconds: float, timeout: float) -> None:
    """Completes the part, or raises MirrorsFailed."""
    reasons: dict[str, str] = {}
    to_ask = list(dict.fromkeys(urls))
    # With disable=None there is no bar where stderr is not a terminal; the plain lines are there either way.
    with tqdm(total=wanted.size, unit="B", unit_scale=True, desc=wanted.part.stem, disable=None, leave=False) as bar:
        for rate in (min_rate, 0.0):
            again = []
            for url in to_ask:
                try:
                    _load_from(url, wanted, _Pace(rate, window_seconds), timeout, bar)
                    return
                except _Left as left:
                    _say(f"left {url}: {left}")
                    reasons[url] = str(left)
                    if left.again:
                        again.append(url)
            to_ask = again
    kept = f" ({wanted.present:,} of {wanted.size:,} bytes are kept)" if wanted.present else ""
    listed = "; ".join(f"{url}: {reason}" for url, reason in reasons.items()) or "no mirrors given"
    raise MirrorsFailed(f"no mirror gave {wanted.part.stem}{kept}: {listed}")


def _load_from(url: str, wanted: _Wanted, pace: _Pace, timeout: float, bar: tqdm[Any]) -> None:
    """Completes and checks the part with one mirror, or raises _Left."""
    while True:
        resumed = wanted.present > 0
        _complete(url, wanted, pace, timeout, bar)
        if md5_of(wanted.part) == wanted.md5:
            return
        wanted.part.unlink()
        if not resumed:
            raise _Left("wrong checksum", again=False)
        # The wrong bytes may be those found on disk, another mirror's; this one has not been shown to be wrong.
        _say(f"{wanted.part} had a wrong checksum: starting over")


def _complete(url: str, wanted: _Wanted, pace: _Pace, timeout: float, bar: tqdm[Any]) -> None:
    for _ in range(NUM_ATTEMPTS):
        before = wanted.present
        if before == wanted.size:
            return
        _say(f"fetching {url}" + (f" from byte {before:,} on" if before else f" ({wanted.size / 1e6:.3g} MB)"))
        try:
            _append(url, wanted, pace, timeout, bar)
            return
        except _BrokenOff as broken:
            pace.add(0)
            if wanted.present <= before:
                raise _Left(str(broken), again=True) from None
            time.sleep(PAUSE_SECONDS)
    raise _Left(f"broke off {NUM_ATTEMPTS} times", again=True)


def _append(url: str, wanted: _Wanted, pace: _Pace, timeout: float, bar: tqdm[Any]) -> None:
    with _open(url, wanted.present, timeout) as response:
        start = _start_of(response, wanted)
        with wanted.part.open("ab") as file:
            file.truncate(start)
            bar.n = start
            position = start
            for chunk in _chunks(response):
                position += len(chunk)
                if position > wanted.size:
                    file.truncate(start)
                    raise _Left(f"longer than {wanted.size} bytes", again=False)
                file.write(chunk)
                bar.update(len(chunk))
                pace.add(len(chunk))
    if position < wanted.size:
        raise _BrokenOff(f"ended after {position} of {wanted.size} bytes")


def _open(url: str, offset: int, timeout: float) -> HTTPResponse:
    """The answer to a request for the bytes from `offset` on, or for the whole file where the server cannot."""
    headers = {"User-Agent": "normbench"} | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        response: HTTPResponse = build_opener(_NoDowngrade).open(Request(url, headers=headers), timeout=timeout)
        return response
    except HTTPError as error:
        error.close()
        if error.code == 416 and offset:
            return _open(url, 0, timeout)
        raise _Left(f"HTTP status {error.code}", again=error.code >= 500 or error.code == 429) from None
    except (OSError, HTTPException, ValueError) as error:
        raise _Left(f"cannot connect: {getattr(error, 'reason', error) or type(error).__name__}", again=True) from None


def _start_of(response: HTTPResponse, wanted: _Wanted) -> int:
    """The position in the file of an answer's first byte. Raises _Left where the headers say it is not our file."""
    if response.headers.get_content_type() == "text/html":
        raise _Left("sent a web page instead of the file", again=False)
    if response.status == 206:
        given = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", given.strip())
        if match is None or int(match[1]) != wanted.present or match[2] not in ("*", str(wanted.size)):
            asked = f"bytes from {wanted.present} on of {wanted.size}"
            raise _Left(f"sent another range ('{given}') than asked for ({asked})", again=False)
        return wanted.present
    length = response.headers.get("Content-Length", str(wanted.size))
    if response.status != 200 or length != str(wanted.size):
        raise _Left(f"HTTP status {response.status}, {length} bytes instead of {wanted.size}", again=False)
    return 0


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    try:
        # read1 gives what has come; read would wait for a whole chunk and hide how slow a slow mirror is.
        while chunk := response.read1(CHUNK):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _BrokenOff(f"broke off: {error or type(error).__name__}") from None


def _move(part: Path, target: Path) -> None:
    with part.open("r+b") as file:
        os.fsync(file.fileno())
    part.replace(target)


def _disk_trouble(error: OSError, wanted: _Wanted) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"disk full: {wanted.part} needs {wanted.size:,} bytes, has {wanted.present:,}; make room and go on"
    return f"cannot use {error.filename or wanted.part}: {error.strerror or error}"


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
