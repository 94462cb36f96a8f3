"""Brings a file further with one mirror over HTTP; download.py goes through the mirrors and checks the result.

Whatever a mirror does wrong ends here as `Left`, with the reason; the bytes that it gave before are kept.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

CHUNK = 1 << 16
NUM_ATTEMPTS = (
    10  # Connections to one mirror in one round, as long as each brings the file further.
)
PAUSE_SECONDS = 1.0  # Before going on where a connection broke off.


class Left(Exception):
    """Why a mirror is left for the next one; `again`: it may be asked once more in the second round."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(" ".join(reason.split()))
        self.again = again


class _BrokenOff(Exception):
    """The connection ended in the middle of the file."""


@dataclass(frozen=True)
class Wanted:
    """The file as it should be, and where it grows."""

    part: Path
    md5: str
    size: int

    @property
    def present(self) -> int:
        """Bytes of it already on disk."""
        return self.part.stat().st_size if self.part.exists() else 0


class Pace:
    """Raises Left at the end of a window in which fewer than `min_rate` bytes per second came."""

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
            raise Left(f"too slow ({rate:.3g} kB/s, wanted {self.min_rate / 1000:.3g})", again=True)
        self._start, self._num_bytes = time.monotonic(), 0


class _NoDowngrade(HTTPRedirectHandler):
    """Follows redirects, but not from https to http."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            fp.close()
            raise Left(f"redirects from https to {newurl}", again=False)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def complete(url: str, wanted: Wanted, pace: Pace, timeout: float, bar: tqdm[Any]) -> None:
    """Loads what is missing of the part, going on where the connection breaks off. Raises Left where that fails."""
    for _ in range(NUM_ATTEMPTS):
        before = wanted.present
        if before == wanted.size:
            return
        say(
            f"fetching {url}"
            + (f" from byte {before:,} on" if before else f" ({wanted.size / 1e6:.3g} MB)")
        )
        try:
            _append(url, wanted, pace, timeout, bar)
            return
        except _BrokenOff as broken:
            pace.add(0)
            if wanted.present <= before:
                raise Left(str(broken), again=True) from None
            time.sleep(PAUSE_SECONDS)
    raise Left(f"broke off {NUM_ATTEMPTS} times", again=True)


def _append(url: str, wanted: Wanted, pace: Pace, timeout: float, bar: tqdm[Any]) -> None:
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
                    raise Left(f"longer than {wanted.size} bytes", again=False)
                file.write(chunk)
                bar.update(len(chunk))
                pace.add(len(chunk))
    if position < wanted.size:
        raise _BrokenOff(f"ended after {position} of {wanted.size} bytes")


def _open(url: str, offset: int, timeout: float) -> HTTPResponse:
    """The answer to a request for the bytes from `offset` on, or for the whole file where the server cannot."""
    headers = {"User-Agent": "normbench"} | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        response: HTTPResponse = build_opener(_NoDowngrade).open(
            Request(url, headers=headers), timeout=timeout
        )
        return response
    except HTTPError as error:
        error.close()
        if error.code == 416 and offset:
            return _open(url, 0, timeout)
        raise Left(
            f"HTTP status {error.code}", again=error.code >= 500 or error.code == 429
        ) from None
    except (OSError, HTTPException, ValueError) as error:
        raise Left(
            f"cannot connect: {getattr(error, 'reason', error) or type(error).__name__}", again=True
        ) from None


def _start_of(response: HTTPResponse, wanted: Wanted) -> int:
    """The position in the file of an answer's first byte. Raises Left where the headers say it is not our file."""
    if response.headers.get_content_type() == "text/html":
        raise Left("sent a web page instead of the file", again=False)
    if response.status == 206:
        given = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", given.strip())
        if (
            match is None
            or int(match[1]) != wanted.present
            or match[2] not in ("*", str(wanted.size))
        ):
            asked = f"bytes from {wanted.present} on of {wanted.size}"
            raise Left(f"sent another range ('{given}') than asked for ({asked})", again=False)
        return wanted.present
    length = response.headers.get("Content-Length", str(wanted.size))
    if response.status != 200 or length != str(wanted.size):
        raise Left(
            f"HTTP status {response.status}, {length} bytes instead of {wanted.size}", again=False
        )
    return 0


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    try:
        # read1 gives what has come; read would wait for a whole chunk and hide how slow a slow mirror is.
        while chunk := response.read1(CHUNK):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _BrokenOff(f"broke off: {error or type(error).__name__}") from None


def say(line: str) -> None:
    """One line on standard error, above the bar."""
    tqdm.write(line, file=sys.stderr)
