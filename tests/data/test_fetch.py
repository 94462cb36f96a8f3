"""Downloads from a local server with the faults of real mirrors."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest

from normbench.data.fetch import mirror
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


@pytest.fixture
def mirrors(server: Mirrors) -> Mirrors:
    # New objects, not cleared: a handler of the test before may still be asleep.
    server.requests, server.answers = [], {}
    return server


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PAUSE_SECONDS", 0.0)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "file.tar.gz"


def part_of(target: Path, content: bytes) -> Path:
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(content)
    return part


def get(urls: list[str], target: Path) -> Path:
    return fetch(urls, target, md5=MD5, size=len(BODY))


def assert_complete(target: Path) -> None:
    assert target.read_bytes() == BODY
    assert not target.with_name(f"{target.name}.part").exists()


def test_a_file_arrives_whole_under_its_name(
    mirrors: Mirrors, target: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert get(mirrors.add(good=good), target) == target
    assert_complete(target)
    assert mirrors.requests == [("good", None)]
    assert capfd.readouterr().out == "", "messages go to stderr"


def test_a_file_already_there_is_not_asked_for_again(mirrors: Mirrors, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(BODY)
    get(mirrors.add(good=good), target)
    assert mirrors.requests == []
    assert list(target.parent.iterdir()) == [target]


def test_a_wrong_file_already_there_is_replaced(mirrors: Mirrors, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(BODY[:-1] + b"?")
    get(mirrors.add(good=good), target)
    assert_complete(target)


def test_a_complete_part_needs_no_mirror(target: Path) -> None:
    part_of(target, BODY)
    get(["http://127.0.0.1:9/none"], target)
    assert_complete(target)


@pytest.mark.parametrize(
    ("part", "answer", "ranges"),
    [
        pytest.param(BODY[:123_456], good, ["bytes=123456-"], id="gone on with"),
        pytest.param(BODY + b"more", good, [None], id="longer than the file"),
        # The mirror that completes a wrong part is not blamed.
        pytest.param(b"?" * 1000, good, ["bytes=1000-", None], id="wrong"),
        pytest.param(BODY[:1000], sends(BODY), ["bytes=1000-"], id="range ignored"),
        pytest.param(BODY[:1000], picky, ["bytes=1000-", None], id="range refused"),
        pytest.param(
            b"", breaks_off, [None, "bytes=100000-", "bytes=200000-"], id="connection broken off"
        ),
    ],
)
def test_a_part_is_gone_on_with_or_started_over(
    mirrors: Mirrors, target: Path, part: bytes, answer: Answer, ranges: list[str | None]
) -> None:
    part_of(target, part)
    get(mirrors.add(first=answer, good=good), target)
    assert mirrors.requests == [("first", asked) for asked in ranges]
    assert_complete(target)


def test_the_attempts_at_a_mirror_that_breaks_off_are_bounded(
    mirrors: Mirrors, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "NUM_ATTEMPTS", 2)
    get(mirrors.add(broken=breaks_off, good=good), target)
    expected = [("broken", None), ("broken", "bytes=100000-"), ("good", "bytes=200000-")]
    assert mirrors.requests == expected
    assert_complete(target)


def test_a_range_that_starts_elsewhere_is_refused(mirrors: Mirrors, target: Path) -> None:
    def elsewhere(handler: Handler) -> None:
        handler.head(206, length=len(BODY), Content_Range=f"bytes 0-{len(BODY) - 1}/{len(BODY)}")
        handler.wfile.write(BODY)

    part = part_of(target, BODY[:1000])
    with pytest.raises(MirrorsFailed, match="sent another range"):
        get(mirrors.add(elsewhere=elsewhere), target)
    assert part.read_bytes() == BODY[:1000]


def test_a_slow_mirror_is_left_and_the_next_one_goes_on(
    mirrors: Mirrors, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "WINDOW_SECONDS", 0.1)
    get(mirrors.add(slow=drips(200, 0.01), good=good), target)
    (first, nothing), (second, wanted_range) = mirrors.requests
    assert (first, nothing, second) == ("slow", None, "good")
    assert wanted_range is not None
    assert int(wanted_range[6:-1]) >= 200
    assert_complete(target)


def test_a_slow_mirror_is_good_enough_where_there_is_no_other(
    mirrors: Mirrors, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "WINDOW_SECONDS", 0.05)
    monkeypatch.setattr(mirror, "MIN_RATE", 1e9)
    get(mirrors.add(slow=drips(30_000, 0.02), gone=says(404)), target)
    assert [name for name, _ in mirrors.requests] == ["slow", "gone", "slow"]
    assert mirrors.requests[-1][1] is not None
    assert_complete(target)


def test_a_mirror_that_stalls_is_left_for_being_slow(
    mirrors: Mirrors, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "WINDOW_SECONDS", 0.1)
    monkeypatch.setattr(mirror, "TIMEOUT_SECONDS", 0.2)
    get(mirrors.add(stalls=drips(1000, 1), good=good), target)
    assert mirrors.requests == [("stalls", None), ("good", "bytes=1000-")]
    assert_complete(target)


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
        (lambda handler: time.sleep(0.5), "timed out"),
    ],
)
def test_a_mirror_without_the_file_is_left_with_its_reason(
    mirrors: Mirrors,
    target: Path,
    answer: Answer,
    reason: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mirror, "TIMEOUT_SECONDS", 0.3)
    bad, fine = mirrors.add(bad=answer, good=good)
    get([bad, fine], target)
    assert mirrors.requests == [("bad", None), ("good", None)], "bytes of the bad mirror were kept"
    assert_complete(target)
    said = capfd.readouterr().err
    assert f"left {bad}: " in said
    assert reason in said


def test_all_reasons_are_named_in_one_line_when_every_mirror_fails(
    mirrors: Mirrors, target: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    gone, wrong = mirrors.add(gone=says(404), wrong=sends(b"?" * len(BODY)))
    with pytest.raises(RunFailure) as failure:
        get([refused, gone, wrong], target)
    message = str(failure.value)
    reasons = {refused: "Connection refused", gone: "HTTP status 404", wrong: "wrong checksum"}
    for url, reason in reasons.items():
        assert reason in message.split(f"{url}: ")[1].split(";")[0]
    assert "\n" not in message
    assert failure.value.exit_code == 1
    asked = [name for name, _ in mirrors.requests]
    assert asked == ["gone", "wrong"], "the second round spares the hopeless"
    assert {path.suffix for path in target.parent.iterdir()} <= {".lock"}


def test_what_has_arrived_is_kept_when_every_mirror_fails(mirrors: Mirrors, target: Path) -> None:
    once = iter([breaks_off])
    with pytest.raises(MirrorsFailed, match=r"100,000 of 300,000 bytes are kept.*HTTP status 500"):
        get(mirrors.add(dies=lambda handler: next(once, says(500))(handler)), target)
    get(mirrors.add(good=good), target)
    assert mirrors.requests[-1] == ("good", "bytes=100000-")
    assert_complete(target)


def test_an_address_that_is_not_http_is_refused_before_anything_is_written(target: Path) -> None:
    message = r"mirror 'file:///etc/passwd': must be an http"
    with pytest.raises(NormbenchError, match=message) as refusal:
        get(["file:///etc/passwd"], target)
    assert refusal.value.exit_code == 2
    assert not target.parent.exists()


def test_a_redirect_is_followed_with_its_range(mirrors: Mirrors, target: Path) -> None:
    (fine,) = mirrors.add(good=good)
    part_of(target, BODY[:1000])
    get(mirrors.add(moved=lambda handler: handler.head(302, length=0, Location=fine)), target)
    assert mirrors.requests == [("moved", "bytes=1000-"), ("good", "bytes=1000-")]
    assert_complete(target)


@pytest.mark.parametrize(
    ("old", "new", "follows"),
    [
        ("https", "https", True),
        ("http", "https", True),
        ("http", "http", True),
        ("https", "http", False),
    ],
)
def test_redirects_keep_or_gain_encryption(old: str, new: str, follows: bool) -> None:
    def redirected() -> Request | None:
        request = Request(f"{old}://a/file")
        handler = mirror._NoDowngrade()
        return handler.redirect_request(
            request, io.BytesIO(), 302, "Found", Message(), f"{new}://b/file"
        )

    if not follows:
        with pytest.raises(mirror.Left, match=f"redirects from {old} to {new}://b/file"):
            redirected()
        return
    request = redirected()
    assert request is not None
    assert request.full_url == f"{new}://b/file"


def test_a_disk_without_room_is_refused_before_a_mirror_is_asked(
    mirrors: Mirrors, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part_of(target, BODY[:1000])
    usage = shutil._ntuple_diskusage(1 << 40, 1 << 40, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    message = r"disk full: .*file.tar.gz.part needs 300,000 bytes, has 1,000"
    with pytest.raises(RunFailure, match=message):
        get(mirrors.add(good=good), target)
    assert mirrors.requests == []


def test_a_disk_that_fills_up_meanwhile_is_named(
    mirrors: Mirrors, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailure, match="disk full"):
        get(mirrors.add(good=good), target)
    assert not target.exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RunFailure, match=r"cannot use .*taken"):
        get(["http://127.0.0.1:9/none"], tmp_path / "taken" / "file.tar.gz")


def test_two_at_once_load_the_file_once(mirrors: Mirrors, target: Path) -> None:
    # Threads stand for processes: each holds the lock by a file descriptor of its own.
    urls = mirrors.add(slow=drips(50_000, 0.03))
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: get(urls, target), range(2)))
    assert results == [target, target]
    assert mirrors.requests == [("slow", None)]
    assert_complete(target)


def test_a_process_killed_while_it_loads_leaves_a_part_to_go_on_from(
    mirrors: Mirrors, target: Path
) -> None:
    slow, fine = mirrors.add(slow=drips(10_000, 0.5), good=good)
    part = target.with_name(f"{target.name}.part")
    program = (
        "import sys; from pathlib import Path; from normbench.data.fetch.download import fetch\n"
        "fetch([sys.argv[1]], Path(sys.argv[2]), md5=sys.argv[3], size=int(sys.argv[4]))"
    )
    command = [sys.executable, "-c", program, slow, str(target), MD5, str(len(BODY))]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait(60)
    kept = part.stat().st_size
    assert 0 < kept < len(BODY)
    assert not target.exists()
    get([fine], target)
    assert mirrors.requests == [("slow", None), ("good", f"bytes={kept}-")]
    assert_complete(target)
