"""Opens HTTP connections that end: by a deadline over many reads, and without odd redirects.

A socket's timeout starts anew with every byte, so that a server which dribbles never meets it.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from email.message import Message
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from types import TracebackType
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener


class RedirectRefused(Exception):
    """A redirect to another protocol than https, or than http where the user gave http."""


class Deadline:
    """Hangs up on a server after `seconds` without progress; a context that ends its own thread."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.has_passed = False
        self._until = time.monotonic() + seconds
        self._sockets: list[socket.socket] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._wait, daemon=True)

    def __enter__(self) -> Deadline:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()
        for connected in self._sockets:
            connected.close()

    def put_off(self) -> None:
        """Counts from now on: there was progress."""
        self._until = time.monotonic() + self.seconds

    def watch(self, connected: socket.socket) -> None:
        """Hangs up on this socket, too, once the deadline has passed."""
        # A copy of its own: TLS takes the descriptor away from the socket.
        self._sockets.append(connected.dup())
        if self.has_passed:
            self._hang_up()

    def _wait(self) -> None:
        while not self._is_over.wait(max(0.0, self._until - time.monotonic())):
            if time.monotonic() >= self._until:
                self.has_passed = True
                self._hang_up()
                return

    def _hang_up(self) -> None:
        for connected in list(self._sockets):
            # Shutting down, unlike closing, wakes a read that is waiting in another thread.
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)


def open_url(request: Request, deadline: Deadline) -> HTTPResponse:
    """The answer to a request once its headers are there, after redirects.

    Raises RedirectRefused, OSError (HTTPError among them), HTTPException or ValueError.
    """
    opener = build_opener(_Http(deadline), _Https(deadline), _Redirects)
    response: HTTPResponse = opener.open(request, timeout=deadline.seconds)
    # Between two headers, hanging up looks like the end of the headers.
    if deadline.has_passed:
        response.close()
        raise TimeoutError
    deadline.put_off()
    return response


class _Watched(HTTPConnection):
    deadline: Deadline

    def connect(self) -> None:
        super().connect()
        self.deadline.watch(self.sock)


class _WatchedTls(HTTPSConnection, _Watched):
    """Is watched from before the TLS handshake on: HTTPSConnection first connects as _Watched."""


class _Http(HTTPHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self.deadline = deadline

    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(partial(_connection, _Watched, self.deadline), req)


class _Https(HTTPSHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self.deadline = deadline

    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(partial(_connection, _WatchedTls, self.deadline), req)


def _connection(
    kind: type[_Watched], deadline: Deadline, host: str, **options: Any
) -> HTTPConnection:
    made = kind(host, **options)
    made.deadline = deadline
    return made


class _Redirects(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        # urllib would read the whole answer, which may be endless.
        fp.close()
        allowed = ("https", "http") if req.type == "http" else ("https",)
        if urlsplit(newurl).scheme not in allowed:
            raise RedirectRefused(f"redirects from {req.type} to {newurl}")
        redirect = super().redirect_request
        return redirect(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
