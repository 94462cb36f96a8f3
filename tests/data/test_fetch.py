"""Downloads from a local server with the faults of real mirrors."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest

from normbench.data.fetch import connection, mirror
from normbench.data.fetch.download import MirrorsFailed, fetch
from normbench.errors import NormbenchError, RunFailure

BODY = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Looks the answer to a request up by the path."""

    server: Mirrors

    def do_GET(self) -> None:
        name = self.path.strip("/")
        self.server.requests.append((name, self.headers.get("Range")))
        self.server.answers[name](self)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    @property
    def start(self) -> int:
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))

    def head(
        self, status: int, *, length: int | None = None, kind: str = "application/gzip", **more: str
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for key, value in more.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()

    def head_of_rest(self) -> None:
        """Sends the headers of a server with ranges."""
        last = f"bytes {self.start}-{len(BODY) - 1}/{len(BODY)}"
        more = {"Content_Range": last} if "Range" in self.headers else {}
        self.head(206 if more else 200, length=len(BODY) - self.start, **more)


Answer = Callable[[Handler], None]


class Mirrors(ThreadingHTTPServer):
    """Several mirrors in a single server, each under a path of its own."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.answers: dict[str, Answer] = {}

    def add(self, **answers: Answer) -> list[str]:
        self.answers.update(answers)
        return [f"http://127.0.0.1:{self.server_address[1]}/{name}" for name in answers]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing where a client has hung up."""


def good(handler: Handler) -> None:
    handler.head_of_rest()
    handler.wfile.write(BODY[handler.start :])


def breaks_off(handler: Handler) -> None:
    """Promises the whole rest, sends 100,000 bytes."""
    handler.head_of_rest()
    handler.wfile.write(BODY[handler.start :][:100_000])


def drips(step: int, pause: float) -> Answer:
    def answer(handler: Handler) -> None:
        handler.head_of_rest()
        for position in range(handler.start, len(BODY), step):
            handler.wfile.write(BODY[position : position + step])
            time.sleep(pause)

    return answer


def sends(body: bytes, *, kind: str = "application/gzip", with_length: bool = True) -> Answer:
    """Ignores ranges and answers 200 with `body`."""

    def answer(handler: Handler) -> None:
        handler.head(200, length=len(body) if with_length else None, kind=kind)
        handler.wfile.write(body)

    return answer


def says(status: int) -> Answer:
    return lambda handler: handler.head(status, length=0)


def picky(handler: Handler) -> None:
    (says(416) if "Range" in handler.headers else good)(handler)


@pytest.fixture(scope="module")
def server() -> Iterator[Mirrors]:
    with Mirrors() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Download:
    """A file wanted from the mirrors of the local server."""

    def __init__(self, server: Mirrors, target: Path) -> None:
        # New objects, not cleared: a handler of the test before may still be asleep.
        server.requests, server.answers = [], {}
        self.server = server
        self.requests = server.requests
        self.target = target
        self.part = target.with_name(f"{target.name}.part")

    def get(self, **answers: Answer) -> Path:
        return self.get_from(self.server.add(**answers))

    def get_from(self, urls: list[str]) -> Path:
        return fetch(urls, self.target, md5=MD5, size=len(BODY))

    def leave(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def assert_complete(self) -> None:
        assert self.target.read_bytes() == BODY
        assert not self.part.exists()


@pytest.fixture
def wanted(server: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Download:
    monkeypatch.setattr(mirror, "PAUSE_SECONDS", 0.0)
    return Download(server, tmp_path / "downloads" / "file.tar.gz")


def test_a_file_arrives_whole_under_its_name(
    wanted: Download, capfd: pytest.CaptureFixture[str]
) -> None:
    assert wanted.get(good=good) == wanted.target
    wanted.assert_complete()
    assert wanted.requests == [("good", None)]
    assert capfd.readouterr().out == "", "messages go to stderr"


def test_a_file_already_there_is_not_asked_for_again(wanted: Download) -> None:
    wanted.leave(wanted.target, BODY)
    wanted.get(good=good)
    assert wanted.requests == []
    assert list(wanted.target.parent.iterdir()) == [wanted.target]


def test_a_wrong_file_already_there_is_replaced(wanted: Download) -> None:
    wanted.leave(wanted.target, BODY[:-1] + b"?")
    wanted.get(good=good)
    wanted.assert_complete()


THIRDS = [None, "bytes=100000-", "bytes=200000-"]


@pytest.mark.parametrize(
    ("part", "answer", "ranges"),
    [
        pytest.param(BODY, good, [], id="complete"),
        pytest.param(BODY[:123_456], good, ["bytes=123456-"], id="gone on with"),
        pytest.param(BODY + b"more", good, [None], id="longer than the file"),
        # The mirror that completes a wrong part is not blamed.
        pytest.param(b"?" * 1000, good, ["bytes=1000-", None], id="wrong"),
        pytest.param(BODY[:1000], sends(BODY), ["bytes=1000-"], id="range ignored"),
        pytest.param(BODY[:1000], picky, ["bytes=1000-", None], id="range refused"),
        pytest.param(b"", breaks_off, THIRDS, id="connection broken off"),
    ],
)
def test_a_part_is_gone_on_with_or_started_over(
    wanted: Download, part: bytes, answer: Answer, ranges: list[str | None]
) -> None:
    wanted.leave(wanted.part, part)
    wanted.get(first=answer, good=good)
    assert wanted.requests == [("first", asked) for asked in ranges]
    wanted.assert_complete()


def test_the_attempts_at_a_mirror_that_breaks_off_are_bounded(
    wanted: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "NUM_ATTEMPTS", 2)
    wanted.get(broken=breaks_off, good=good)
    names = ["broken", "broken", "good"]
    assert wanted.requests == list(zip(names, THIRDS, strict=True))
    wanted.assert_complete()


def test_a_range_that_starts_elsewhere_is_refused(wanted: Download) -> None:
    def elsewhere(handler: Handler) -> None:
        handler.head(206, length=len(BODY), Content_Range=f"bytes 0-{len(BODY) - 1}/{len(BODY)}")
        handler.wfile.write(BODY)

    wanted.leave(wanted.part, BODY[:1000])
    with pytest.raises(MirrorsFailed, match="sent another range"):
        wanted.get(elsewhere=elsewhere)
    assert wanted.part.read_bytes() == BODY[:1000]


@pytest.mark.parametrize("answer", [drips(1000, 0.05), drips(1000, 1)], ids=["drips", "stalls"])
def test_a_slow_mirror_is_left_and_the_next_one_goes_on(
    wanted: Download, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "WINDOW_SECONDS", 0.1)
    monkeypatch.setattr(mirror, "TIMEOUT_SECONDS", 0.2)
    wanted.get(slow=answer, good=good)
    (first, nothing), (second, asked) = wanted.requests
    assert (first, nothing, second) == ("slow", None, "good")
    assert asked is not None
    assert int(asked[6:-1]) >= 1000
    wanted.assert_complete()


def test_a_slow_mirror_is_good_enough_where_there_is_no_other(
    wanted: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "WINDOW_SECONDS", 0.05)
    monkeypatch.setattr(mirror, "MIN_RATE", 1e9)
    wanted.get(slow=drips(30_000, 0.02), gone=says(404))
    assert [name for name, _ in wanted.requests] == ["slow", "gone", "slow"]
    assert wanted.requests[-1][1] is not None
    wanted.assert_complete()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says(404), "HTTP status 404"),
        (says(503), "HTTP status 503"),
        (sends(b"<html>please log in</html>", kind="text/html; charset=utf-8"), "a web page"),
        (sends(b"<html>please log in</html>"), "26 bytes instead of 300000"),
        (sends(BODY[:-1] + b"?"), "wrong checksum"),
        (sends(BODY + b"?", with_length=False), "longer than 300000 bytes"),
        (Handler.head_of_rest, "ended after 0 of 300000 bytes"),
        (lambda handler: time.sleep(0.3), "timed out"),
    ],
)
def test_a_mirror_without_the_file_is_left_with_its_reason(
    wanted: Download,
    answer: Answer,
    reason: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mirror, "TIMEOUT_SECONDS", 0.2)
    wanted.get(bad=answer, good=good)
    assert wanted.requests == [("bad", None), ("good", None)], "bytes of the bad mirror were kept"
    wanted.assert_complete()
    assert re.search(f"left http://.*/bad: .*{reason}", capfd.readouterr().err)


def test_all_reasons_are_named_in_one_line_when_every_mirror_fails(wanted: Download) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    gone, wrong = wanted.server.add(gone=says(404), wrong=sends(b"?" * len(BODY)))
    with pytest.raises(RunFailure) as failure:
        wanted.get_from([refused, gone, wrong])
    message = str(failure.value)
    reasons = {refused: "Connection refused", gone: "HTTP status 404", wrong: "wrong checksum"}
    for url, reason in reasons.items():
        assert reason in message.split(f"{url}: ")[1].split(";")[0]
    assert "\n" not in message
    assert failure.value.exit_code == 1
    asked = [name for name, _ in wanted.requests]
    assert asked == ["gone", "wrong"], "the second round spares the hopeless"
    assert {path.suffix for path in wanted.target.parent.iterdir()} <= {".lock"}


def test_what_has_arrived_is_kept_when_every_mirror_fails(wanted: Download) -> None:
    once = iter([breaks_off])
    with pytest.raises(MirrorsFailed, match=r"100,000 of 300,000 bytes are kept.*HTTP status 500"):
        wanted.get(dies=lambda handler: next(once, says(500))(handler))
    wanted.get(good=good)
    assert wanted.requests[-1] == ("good", "bytes=100000-")
    wanted.assert_complete()


@pytest.mark.parametrize("address", ["file:///etc/passwd", "http://[", "", "http://a\0b/"])
def test_an_address_that_is_not_http_is_refused_before_anything_is_written(
    wanted: Download, address: str
) -> None:
    message = f"mirror {re.escape(repr(address))}: must be an http"
    with pytest.raises(NormbenchError, match=message) as refusal:
        wanted.get_from([address])
    assert refusal.value.exit_code == 2
    assert not wanted.target.parent.exists()


def test_a_redirect_is_followed_with_its_range(wanted: Download) -> None:
    (fine,) = wanted.server.add(good=good)
    wanted.leave(wanted.part, BODY[:1000])
    wanted.get(moved=lambda handler: handler.head(302, length=0, Location=fine))
    assert wanted.requests == [("moved", "bytes=1000-"), ("good", "bytes=1000-")]
    wanted.assert_complete()


def redirected(old: str, new: str) -> Request | None:
    request, answer = Request(f"{old}://a/file"), io.BytesIO()
    location = f"{new}://b/file"
    return connection._Redirects().redirect_request(request, answer, 302, "", Message(), location)


def test_a_redirect_may_keep_or_gain_encryption_but_not_lose_it() -> None:
    for old, new in (("https", "https"), ("http", "https"), ("http", "http")):
        request = redirected(old, new)
        assert request is not None
        assert request.full_url == f"{new}://b/file"
    with pytest.raises(connection.RedirectRefused, match="redirects from https to http://b/file"):
        redirected("https", "http")


@pytest.mark.parametrize("scheme", ["file", "ftp", "data", "gopher"])
def test_a_redirect_to_another_protocol_is_not_followed(wanted: Download, scheme: str) -> None:
    place = f"{scheme}://127.0.0.1/etc/passwd"
    with pytest.raises(MirrorsFailed, match=f"edirect.*{scheme}://127") as failure:
        wanted.get(moved=lambda handler: handler.head(302, length=0, Location=place))
    assert wanted.requests == [("moved", None)]
    assert "\n" not in str(failure.value)


def test_redirects_in_a_circle_end(wanted: Download) -> None:
    here, there = wanted.server.add(
        here=lambda handler: handler.head(302, length=0, Location=there),
        there=lambda handler: handler.head(302, length=0, Location=here),
    )
    with pytest.raises(MirrorsFailed, match=r"HTTP status 302: .*infinite loop"):
        wanted.get_from([here])
    assert len(wanted.requests) <= 12


def test_the_body_of_a_redirect_is_not_read(wanted: Download) -> None:
    (fine,) = wanted.server.add(good=good)

    def endless(handler: Handler) -> None:
        handler.head(302, Location=fine)
        with suppress(OSError):
            while True:
                handler.wfile.write(bytes(1 << 16))

    wanted.get(moved=endless)
    wanted.assert_complete()


class Dribble:
    """A server that sends `start`, then `rest` again and again; each answer takes forever."""

    def __init__(self, start: bytes, rest: bytes) -> None:
        self.start, self.rest = start, rest
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Dribble:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                self._answer(self.listener.accept()[0])

    def _answer(self, connection: socket.socket) -> None:
        # A client that hangs up ends the answer.
        with connection, suppress(OSError):
            connection.sendall(self.start)
            while True:
                connection.sendall(self.rest)
                time.sleep(0.02)


OK = b"HTTP/1.1 200 OK\r\n"
DRIBBLES = {
    "one byte of a header": ("http", OK + b"X-Long: ", b"x"),
    "one header": ("http", OK, b"X-More: x\r\n"),
    "100 Continue": ("http", b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a TLS handshake": ("https", b"\x16\x03\x03\x40\x00", b"\x02"),
    "the size of a chunk": (
        "http",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1;",
        b"x",
    ),
}


@pytest.mark.parametrize("kind", DRIBBLES)
def test_a_server_that_dribbles_is_left_after_the_time_for_an_answer(
    wanted: Download, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "TIMEOUT_SECONDS", 0.3)
    scheme, start, rest = DRIBBLES[kind]
    threads = threading.active_count()
    begin = time.monotonic()
    with Dribble(start, rest) as server:
        (fine,) = wanted.server.add(good=good)
        wanted.get_from([f"{scheme}://127.0.0.1:{server.port}/file", fine])
    assert time.monotonic() - begin < 10
    assert threading.active_count() <= threads + 1
    wanted.assert_complete()


def test_the_reason_names_the_time_for_an_answer(
    wanted: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "TIMEOUT_SECONDS", 0.3)
    reason = r"timed out, no answer within 0\.3 s"
    with Dribble(OK, b"X-More: x\r\n") as server, pytest.raises(MirrorsFailed, match=reason):
        wanted.get_from([f"http://127.0.0.1:{server.port}/file"])


def test_the_time_until_the_headers_counts_for_the_pace(
    wanted: Download, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def late(handler: Handler) -> None:
        time.sleep(1.2)
        good(handler)

    monkeypatch.setattr(mirror, "WINDOW_SECONDS", 1.0)
    monkeypatch.setattr(mirror, "MIN_RATE", 1e7)
    wanted.get(late=late, good=good)
    assert re.search("left .*/late: too slow", capfd.readouterr().err)
    assert [name for name, _ in wanted.requests] == ["late", "good"]


def test_the_last_mirror_is_left_when_hardly_anything_arrives(
    wanted: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "WINDOW_SECONDS", 0.05)
    monkeypatch.setattr(mirror, "LAST_WINDOW_SECONDS", 0.2)
    reason = r"too slow \(0\.\d+ kB/s over 0\.\d+ s, wanted 1\)"
    with pytest.raises(MirrorsFailed, match=reason):
        wanted.get(drips=drips(1, 0.02))
    assert 0 < wanted.part.stat().st_size < 1000


@pytest.mark.parametrize("name", ["file.tar.gz", "file.tar.gz.part"])
@pytest.mark.parametrize(("make", "kind"), [(os.mkfifo, "a FIFO"), (os.mkdir, "a folder")])
def test_something_else_in_the_place_of_the_file_is_named(
    wanted: Download, name: str, make: Callable[[Path], None], kind: str
) -> None:
    wanted.target.parent.mkdir()
    make(wanted.target.with_name(name))
    with pytest.raises(RunFailure, match=f"{name}: it is {kind}, and must be a file"):
        wanted.get(good=good)


def test_words_of_a_mirror_are_escaped(wanted: Download) -> None:
    def colours(handler: Handler) -> None:
        handler.head(206, length=0, Content_Range="\x1b[31mred")

    wanted.leave(wanted.part, BODY[:1000])
    with pytest.raises(MirrorsFailed, match=r"\\x1b\[31mred"):
        wanted.get(colours=colours)


def test_a_disk_without_room_is_refused_before_a_mirror_is_asked(
    wanted: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted.leave(wanted.part, BODY[:1000])
    usage = shutil._ntuple_diskusage(1 << 40, 1 << 40, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    message = r"disk full: .*file.tar.gz.part needs 300,000 bytes, has 1,000"
    with pytest.raises(RunFailure, match=message):
        wanted.get(good=good)
    assert wanted.requests == []


def test_a_disk_that_fills_up_meanwhile_is_named(
    wanted: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailure, match="disk full"):
        wanted.get(good=good)
    assert not wanted.target.exists()


def test_a_folder_that_cannot_be_made_is_named(wanted: Download) -> None:
    wanted.target.parent.write_text("a file")
    with pytest.raises(RunFailure, match=r"cannot use .*downloads"):
        wanted.get(good=good)


def test_two_at_once_load_the_file_once(wanted: Download) -> None:
    # Threads stand for processes: each holds the lock by a file descriptor of its own.
    urls = wanted.server.add(slow=drips(50_000, 0.03))
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: wanted.get_from(urls), range(2)))
    assert results == [wanted.target, wanted.target]
    assert wanted.requests == [("slow", None)]
    wanted.assert_complete()


def test_a_process_killed_while_it_loads_leaves_a_part_to_go_on_from(wanted: Download) -> None:
    (slow,) = wanted.server.add(slow=drips(10_000, 0.5))
    program = (
        "import sys; from pathlib import Path; from normbench.data.fetch.download import fetch\n"
        "fetch([sys.argv[1]], Path(sys.argv[2]), md5=sys.argv[3], size=int(sys.argv[4]))"
    )
    command = [sys.executable, "-c", program, slow, str(wanted.target), MD5, str(len(BODY))]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while not (wanted.part.exists() and wanted.part.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait(60)
    kept = wanted.part.stat().st_size
    assert 0 < kept < len(BODY)
    assert not wanted.target.exists()
    wanted.get(good=good)
    assert wanted.requests == [("slow", None), ("good", f"bytes={kept}-")]
    wanted.assert_complete()
