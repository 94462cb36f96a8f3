"""Downloads against a local server that misbehaves in the ways real mirrors do."""

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
    """Looks the answer to a request up by its path."""

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
        """The headers of a server that knows ranges."""
        last = f"bytes {self.start}-{len(BODY) - 1}/{len(BODY)}"
        more = {"Content_Range": last} if "Range" in self.headers else {}
        self.head(206 if more else 200, length=len(BODY) - self.start, **more)


Answer = Callable[[Handler], None]


class Mirrors(ThreadingHTTPServer):
    """Several mirrors in one server, each under a path of its own."""

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
    """Promises all of the rest, sends 100,000 bytes."""
    handler.head_of_rest()
    handler.wfile.write(BODY[handler.start :][:100_000])


def drips(step: int, pause: float) -> Answer:
    def answer(handler: Handler) -> None:
        handler.head_of_rest()
        for position in range(handler.start, len(BODY), step):
            handler.wfile.write(BODY[position : position + step])
            time.sleep(pause)

    return answer


def stalls(handler: Handler) -> None:
    handler.head_of_rest()
    handler.wfile.write(BODY[handler.start :][:1000])
    time.sleep(1)


def sends(body: bytes, *, kind: str = "application/gzip", with_length: bool = True) -> Answer:
    """Ignores ranges and answers 200 with `body`."""

    def answer(handler: Handler) -> None:
        handler.head(200, length=len(body) if with_length else None, kind=kind)
        handler.wfile.write(body)

    return answer


def says(status: int) -> Answer:
    return lambda handler: handler.head(status, length=0)


@pytest.fixture
def mirrors() -> Iterator[Mirrors]:
    with Mirrors() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


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


def get(urls: list[str], target: Path, **options: float) -> Path:
    return fetch(urls, target, md5=MD5, size=len(BODY), **options)


def assert_complete(target: Path) -> None:
    assert target.read_bytes() == BODY
    assert not target.with_name(f"{target.name}.part").exists()


def test_a_file_arrives_whole_under_its_name(
    mirrors: Mirrors, target: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert get(mirrors.add(good=good), target) == target
    assert_complete(target)
    assert mirrors.requests == [("good", None)]
    assert capfd.readouterr().out == ""  # All messages go to stderr.


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


def test_a_part_is_gone_on_with_by_range(mirrors: Mirrors, target: Path) -> None:
    part_of(target, BODY[:123_456])
    get(mirrors.add(good=good), target)
    assert mirrors.requests == [("good", "bytes=123456-")]
    assert_complete(target)


def test_a_complete_part_needs_no_mirror(target: Path) -> None:
    part_of(target, BODY)
    get(["http://127.0.0.1:9/none"], target)
    assert_complete(target)


def test_a_part_longer_than_the_file_is_thrown_away(mirrors: Mirrors, target: Path) -> None:
    part_of(target, BODY + b"more")
    get(mirrors.add(good=good), target)
    assert mirrors.requests == [("good", None)]
    assert_complete(target)


def test_a_wrong_part_is_not_blamed_on_the_mirror_that_completes_it(
    mirrors: Mirrors, target: Path
) -> None:
    part_of(target, b"?" * 1000)
    get(mirrors.add(good=good), target)
    assert mirrors.requests == [("good", "bytes=1000-"), ("good", None)]
    assert_complete(target)


def test_a_connection_broken_off_is_resumed_at_the_same_mirror(
    mirrors: Mirrors, target: Path
) -> None:
    get(mirrors.add(broken=breaks_off, good=good), target)
    assert mirrors.requests == [
        ("broken", None),
        ("broken", "bytes=100000-"),
        ("broken", "bytes=200000-"),
    ]
    assert_complete(target)


def test_the_attempts_at_a_mirror_that_breaks_off_are_bounded(
    mirrors: Mirrors, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "NUM_ATTEMPTS", 2)
    get(mirrors.add(broken=breaks_off, good=good), target)
    assert mirrors.requests == [
        ("broken", None),
        ("broken", "bytes=100000-"),
        ("good", "bytes=200000-"),
    ]
    assert_complete(target)


def test_a_mirror_that_breaks_off_without_progress_is_left(mirrors: Mirrors, target: Path) -> None:
    nothing: Answer = Handler.head_of_rest
    get(mirrors.add(nothing=nothing, good=good), target)
    assert mirrors.requests == [("nothing", None), ("good", None)]
    assert_complete(target)


def test_a_server_that_ignores_ranges_makes_it_start_over(mirrors: Mirrors, target: Path) -> None:
    part_of(target, BODY[:1000])
    get(mirrors.add(ignores=sends(BODY)), target)
    assert mirrors.requests == [("ignores", "bytes=1000-")]
    assert_complete(target)


def test_a_range_that_starts_elsewhere_is_refused(mirrors: Mirrors, target: Path) -> None:
    def elsewhere(handler: Handler) -> None:
        handler.head(206, length=len(BODY), Content_Range=f"bytes 0-{len(BODY) - 1}/{len(BODY)}")
        handler.wfile.write(BODY)

    part = part_of(target, BODY[:1000])
    with pytest.raises(MirrorsFailed, match="sent another range"):
        get(mirrors.add(elsewhere=elsewhere), target)
    assert part.read_bytes() == BODY[:1000]


def test_a_range_that_cannot_be_had_makes_it_start_over(mirrors: Mirrors, target: Path) -> None:
    part_of(target, BODY[:1000])
    get(mirrors.add(picky=lambda h: (says(416) if "Range" in h.headers else good)(h)), target)
    assert mirrors.requests == [("picky", "bytes=1000-"), ("picky", None)]
    assert_complete(target)


def test_a_slow_mirror_is_left_and_the_next_one_goes_on(mirrors: Mirrors, target: Path) -> None:
    get(mirrors.add(slow=drips(1000, 0.02), good=good), target, min_rate=1e6, window_seconds=0.2)
    (first, nothing), (second, wanted_range) = mirrors.requests
    assert (first, nothing, second) == ("slow", None, "good")
    assert wanted_range is not None
    assert int(wanted_range[6:-1]) >= 1000
    assert_complete(target)


def test_a_slow_mirror_is_good_enough_where_there_is_no_other(
    mirrors: Mirrors, target: Path
) -> None:
    get(
        mirrors.add(slow=drips(20_000, 0.03), gone=says(404)),
        target,
        min_rate=1e9,
        window_seconds=0.1,
    )
    assert [name for name, _ in mirrors.requests] == ["slow", "gone", "slow"]
    assert mirrors.requests[-1][1] is not None
    assert_complete(target)


def test_a_mirror_that_stalls_is_left_for_being_slow(mirrors: Mirrors, target: Path) -> None:
    get(mirrors.add(stalls=stalls, good=good), target, window_seconds=0.1, timeout=0.2)
    assert mirrors.requests == [("stalls", None), ("good", "bytes=1000-")]
    assert_complete(target)


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says(404), "HTTP status 404"),
        (says(503), "HTTP status 503"),
        (sends(b"<html>please log in</html>", kind="text/html; charset=utf-8"), "a web page"),
        (sends(b"<html>please log in</html>"), "26 bytes instead of 300000"),
        (sends(BODY[:-1] + b"?"), "wrong checksum"),
        (sends(BODY + b"?", with_length=False), "longer than 300000 bytes"),
        (lambda handler: time.sleep(0.5), "timed out"),
    ],
)
def test_a_mirror_without_the_file_is_left_with_its_reason(
    mirrors: Mirrors, target: Path, answer: Answer, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    bad, fine = mirrors.add(bad=answer, good=good)
    get([bad, fine], target, timeout=0.3)
    assert mirrors.requests == [("bad", None), ("good", None)]  # Nothing of the bad one's was kept.
    assert_complete(target)
    assert f"left {bad}: " in (said := capfd.readouterr().err)
    assert reason in said


def test_all_reasons_are_named_in_one_line_when_every_mirror_fails(
    mirrors: Mirrors, target: Path
) -> None:
    refused = f"http://127.0.0.1:{closed_port()}/file"
    gone, wrong = mirrors.add(gone=says(404), wrong=sends(b"?" * len(BODY)))
    with pytest.raises(RunFailure) as failure:
        get([refused, gone, wrong], target)
    message = str(failure.value)
    for url, reason in (
        (refused, "Connection refused"),
        (gone, "HTTP status 404"),
        (wrong, "wrong checksum"),
    ):
        assert reason in message.split(f"{url}: ")[1].split(";")[0]
    assert "\n" not in message
    assert failure.value.exit_code == 1
    assert [name for name, _ in mirrors.requests] == [
        "gone",
        "wrong",
    ]  # The second round spares the hopeless.
    assert sorted(path.suffix for path in target.parent.iterdir()) in ([".lock"], [])


def test_what_has_arrived_is_kept_when_every_mirror_fails(mirrors: Mirrors, target: Path) -> None:
    once = iter([breaks_off])
    with pytest.raises(MirrorsFailed, match=r"100,000 of 300,000 bytes are kept.*HTTP status 500"):
        get(mirrors.add(dies=lambda handler: next(once, says(500))(handler)), target)
    get(mirrors.add(good=good), target)
    assert mirrors.requests[-1] == ("good", "bytes=100000-")
    assert_complete(target)


def test_an_address_that_is_not_http_is_refused_before_anything_is_written(target: Path) -> None:
    with pytest.raises(
        NormbenchError, match=r"mirror 'file:///etc/passwd': must be an http"
    ) as refusal:
        get(["file:///etc/passwd"], target)
    assert refusal.value.exit_code == 2
    assert not target.parent.exists()


def test_a_redirect_is_followed_with_its_range(mirrors: Mirrors, target: Path) -> None:
    (fine,) = mirrors.add(good=good)
    part_of(target, BODY[:1000])
    get(mirrors.add(moved=lambda handler: handler.head(302, length=0, Location=fine)), target)
    assert mirrors.requests == [("moved", "bytes=1000-"), ("good", "bytes=1000-")]
    assert_complete(target)


@pytest.mark.parametrize(("old", "new"), [("https", "https"), ("http", "https"), ("http", "http")])
def test_redirects_that_keep_or_gain_encryption_are_followed(old: str, new: str) -> None:
    follow = mirror._NoDowngrade().redirect_request
    request = follow(
        Request(f"{old}://a/file"), io.BytesIO(), 302, "Found", Message(), f"{new}://b/file"
    )
    assert request is not None
    assert request.full_url == f"{new}://b/file"


def test_a_redirect_from_https_to_http_is_refused() -> None:
    follow = mirror._NoDowngrade().redirect_request
    with pytest.raises(mirror.Left, match="redirects from https to http://b/file"):
        follow(Request("https://a/file"), io.BytesIO(), 302, "Found", Message(), "http://b/file")


def test_a_disk_without_room_is_refused_before_a_mirror_is_asked(
    mirrors: Mirrors, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part_of(target, BODY[:1000])
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1000)
    )
    with pytest.raises(
        RunFailure, match=r"disk full: .*file.tar.gz.part needs 300,000 bytes, has 1,000"
    ):
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


def start_fetching(url: str, target: Path) -> subprocess.Popen[bytes]:
    program = (
        "import sys; from pathlib import Path; from normbench.data.fetch.download import fetch\n"
    )
    program += "fetch([sys.argv[1]], Path(sys.argv[2]), md5=sys.argv[3], size=int(sys.argv[4]))"
    return subprocess.Popen([sys.executable, "-c", program, url, str(target), MD5, str(len(BODY))])


def test_two_processes_at_once_load_the_file_once(mirrors: Mirrors, target: Path) -> None:
    (url,) = mirrors.add(slow=drips(10_000, 0.03))
    processes = [start_fetching(url, target) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert mirrors.requests == [("slow", None)]
    assert_complete(target)


def test_a_process_killed_while_it_loads_leaves_a_part_to_go_on_from(
    mirrors: Mirrors, target: Path
) -> None:
    slow, fine = mirrors.add(slow=drips(10_000, 0.5), good=good)
    part = target.with_name(f"{target.name}.part")
    process = start_fetching(slow, target)
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
