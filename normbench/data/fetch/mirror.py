"""Loads the missing bytes of a file from one mirror over HTTP, for download.py.

Every fault of a mirror is raised as `Left` with the reason; bytes loaded before are kept.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request

from tqdm import tqdm

from normbench.data.fetch.connection import Deadline, RedirectRefused, open_url
from normbench.data.files import printable
from normbench.text import visible

CHUNK = 1 << 16
# Bytes per second, over a window, under which another mirror is tried.
MIN_RATE = 100_000.0
WINDOW_SECONDS = 15.0
# The same where no other mirror is left: then CIFAR-10 takes at most two days.
LAST_MIN_RATE = 1_000.0
LAST_WINDOW_SECONDS = 300.0
# Without any byte of the file, or until all headers of an answer are there.
TIMEOUT_SECONDS = 20.0
# Connections to a mirror in one round, as long as each loads something.
NUM_ATTEMPTS = 10
PAUSE_SECONDS = 1.0


class Left(Exception):
    """Why a mirror is left for the next; `again`: the second round may ask the mirror once more."""

    def __init__(self, reason: str, *, again: bool) -> None:
        # A mirror chooses a part of the words.
        super().__init__(printable(" ".join(reason.split())))
        self.again = again


class _BrokenOff(Exception):
    """The connection ended in the middle of the file."""


@dataclass(frozen=True)
class Wanted:
    """Describes the complete file, and where the part of the file grows."""

    part: Path
    md5: str
    size: int

    @property
    def present(self) -> int:
        """Bytes already on disk."""
        return self.part.stat().st_size if self.part.exists() else 0


class Pace:
    """Raises Left at the end of a window with too few bytes; a patient pace takes nearly any."""

    def __init__(self, patient: bool) -> None:
        self.min_rate = LAST_MIN_RATE if patient else MIN_RATE
        self.window_seconds = LAST_WINDOW_SECONDS if patient else WINDOW_SECONDS
        self._start, self._num_bytes = time.monotonic(), 0

    def add(self, num_bytes: int) -> None:
        """Counts received bytes; 0 where a connection broke off, so that stalling counts too."""
        self._num_bytes += num_bytes
        elapsed = time.monotonic() - self._start
        if elapsed >= self.window_seconds:
            rate = self._num_bytes / elapsed
            if rate < self.min_rate:
                rates = f"{rate / 1000:.3g} kB/s over {elapsed:.3g} s"
                wanted = f"wanted {self.min_rate / 1000:.3g}"
                raise Left(f"too slow ({rates}, {wanted})", again=True)
            self._start, self._num_bytes = time.monotonic(), 0


def complete(url: str, wanted: Wanted, pace: Pace, bar: tqdm[Any]) -> None:
    """Loads the missing bytes, over several connections where one breaks off. Raises Left."""
    for _ in range(NUM_ATTEMPTS):
        before = wanted.present
        if before == wanted.size:
            return
        share = f"from byte {before:,} on" if before else f"({wanted.size / 1e6:.3g} MB)"
        say(f"fetching {url} {share}")
        try:
            _append(url, wanted, pace, bar)
            return
        except _BrokenOff as broken:
            pace.add(0)
            if wanted.present <= before:
                raise Left(str(broken), again=True) from None
            time.sleep(PAUSE_SECONDS)
    raise Left(f"broke off {NUM_ATTEMPTS} times", again=True)


def _append(url: str, wanted: Wanted, pace: Pace, bar: tqdm[Any]) -> None:
    with Deadline(TIMEOUT_SECONDS) as deadline, _open(url, wanted.present, deadline) as response:
        position = start = _start_of(response, wanted)
        with wanted.part.open("ab") as file:
            file.truncate(start)
            bar.n = start
            for chunk in _chunks(response, deadline):
                position += len(chunk)
                if position > wanted.size:
                    file.truncate(start)
                    raise Left(f"longer than {wanted.size} bytes", again=False)
                file.write(chunk)
                bar.update(len(chunk))
                pace.add(len(chunk))
    if position < wanted.size:
        raise _BrokenOff(f"ended after {position} of {wanted.size} bytes")


def _open(url: str, offset: int, deadline: Deadline) -> HTTPResponse:
    """Asks for the bytes from `offset` on, or for the whole file of a server without ranges."""
    request = Request(url, headers={"User-Agent": "normbench"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        return open_url(request, deadline)
    except RedirectRefused as refused:
        raise Left(str(refused), again=False) from None
    except HTTPError as error:
        error.close()
        # 416: the range cannot be had.
        if error.code == 416 and offset:
            return _open(url, 0, deadline)
        # The server's own trouble (5xx) and too many requests (429) may pass.
        may_pass = error.code >= 500 or error.code == 429
        # Of a redirect that is not followed, urllib says why.
        why = f": {error.reason}" if 300 <= error.code < 400 else ""
        raise Left(f"HTTP status {error.code}{why}", again=may_pass) from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error) or type(error).__name__
        if deadline.has_passed:
            reason = f"timed out, no answer within {deadline.seconds:g} s"
        raise Left(f"cannot connect: {reason}", again=True) from None


def _start_of(response: HTTPResponse, wanted: Wanted) -> int:
    """The position of an answer's first byte. Raises Left for headers of another file."""
    if response.headers.get_content_type() == "text/html":
        raise Left("sent a web page instead of the file", again=False)
    if response.status == 206:
        given = response.headers.get("Content-Range", "")
        # A server may leave the size unsaid, as *.
        if not re.fullmatch(rf"bytes {wanted.present}-\d+/({wanted.size}|\*)", given.strip()):
            asked = f"bytes from {wanted.present} on of {wanted.size}"
            raise Left(f"sent another range ('{given}') than asked for ({asked})", again=False)
        return wanted.present
    length = response.headers.get("Content-Length", str(wanted.size))
    if response.status != 200 or length != str(wanted.size):
        found = f"HTTP status {response.status}, {length} bytes instead of {wanted.size}"
        raise Left(found, again=False)
    return 0


def _chunks(response: HTTPResponse, deadline: Deadline) -> Iterator[bytes]:
    try:
        # read1 gives the bytes present; read would wait for a whole chunk and hide a slow mirror.
        while chunk := response.read1(CHUNK):
            deadline.put_off()
            yield chunk
    except (OSError, HTTPException) as error:
        raise _BrokenOff(f"broke off: {error or type(error).__name__}") from None


def say(line: str) -> None:
    """Prints a line on standard error, above the bar."""
    tqdm.write(visible(line), file=sys.stderr)
