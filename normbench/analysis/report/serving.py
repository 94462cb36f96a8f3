"""The report of runs that still train, served to a browser on this machine, anew as runs end."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from normbench.analysis.loading import check_comparable, load_study, matching
from normbench.analysis.study import Study
from normbench.errors import NormbenchError
from normbench.runs.files import is_run, run_dirs
from normbench.runs.state import status_bytes

HOST = "127.0.0.1"
SECONDS_BETWEEN_LOOKS = 2.0
# What is folded open, and where the page stands, outlast a reload: the browser keeps the place.
RELOADING = """
<script>
{
  const folds = () => [...document.querySelectorAll("details")];
  // Counts change as runs end.
  const title = fold => fold.querySelector("summary").textContent.replace(/\\d+/g, "");
  const opened = JSON.parse(sessionStorage.getItem("open") || "[]");
  folds().filter(fold => opened.includes(title(fold))).forEach(fold => { fold.open = true; });
  const look = async () => {
    const answer = await fetch("/version").catch(() => null);
    if (!answer || await answer.text() === "VERSION") return;
    const open = folds().filter(fold => fold.open);
    sessionStorage.setItem("open", JSON.stringify(open.map(title)));
    location.reload();
  };
  setInterval(look, 2000);
}
</script>
"""
WAITING = "<!doctype html><meta charset=utf-8><title>normbench</title><p>{}</p>"

Write = Callable[[Study, Path], Path]


class Server(ThreadingHTTPServer):
    """Serves one page to this machine alone, with a version that the page asks for."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__((HOST, port), _Handler)
        # Beyond those of any earlier server: a page left open reloads.
        self.version = time.time_ns()
        self.show(WAITING.format("The report is being written."))

    @property
    def url(self) -> str:
        """The address for a browser."""
        return f"http://{HOST}:{self.server_port}/"

    def show(self, page: str) -> None:
        """Puts another page in the place of the present one."""
        self.version += 1
        script = RELOADING.replace("VERSION", str(self.version))
        self.page = (page + script).encode()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        """Answers with the page, or with its version."""
        # A name that leads here from elsewhere would let a stranger's page read the report.
        if (self.headers["Host"] or "").partition(":")[0] not in (HOST, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.path == "/":
            self._answer(self.server.page, "text/html")
        elif self.path == "/version":
            self._answer(str(self.server.version).encode(), "text/plain")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Prints nothing: a line a request would hide what the command says."""

    def _answer(self, content: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving(port: int) -> Iterator[Server]:
    """Yields a server that answers until the end. port: 0 for any that is free.

    Raises NormbenchError for a port that cannot be had.
    """
    try:
        server = Server(port)
    except (OSError, OverflowError) as error:
        raise NormbenchError(f"--port {port}: {error}; allowed: a free port, 0 for any") from None
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def check_served(paths: Sequence[Path], where: Sequence[str]) -> None:
    """Raises NormbenchError for what no run to come could mend: places and conditions."""
    for path in paths:
        if not path.exists():
            raise NormbenchError(f"there is no folder '{path}': name one that runs are written to")
        if not path.is_dir() and path.name != "runs.csv":
            raise NormbenchError(f"'{path}' is not a folder, and no study's runs.csv")
    is_study = any((path if path.is_file() else path / "runs.csv").is_file() for path in paths)
    try:
        study = load_study(paths)
    except NormbenchError:
        if is_study:
            raise
        return  # no run yet
    matching(study, where)


def keep_shown(server: Server, paths: Sequence[Path], where: Sequence[str], write: Write) -> None:
    """Shows the report of the runs at `paths`, and shows it anew whenever a run begins or ends.

    write: writes a study's report to a folder and returns the path of its page. What cannot be
    reported yet, such as runs before their first epoch, is told on the page in its place.
    """
    seen: Mapping[Path, bytes | None] | None = None
    while True:
        states = _states(paths)
        if states != seen:
            server.show(_page(paths, where, write))
            seen = states
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _states(paths: Sequence[Path]) -> dict[Path, bytes | None]:
    """What status.json of every run says, by the run's directory."""
    found: dict[Path, bytes | None] = {}
    for path in paths:
        for run in [path] if is_run(path) else run_dirs(path):
            found[run] = status_bytes(run)
    return found


def _page(paths: Sequence[Path], where: Sequence[str], write: Write) -> str:
    try:
        study = load_study(paths, where)
        check_comparable(study)
        with TemporaryDirectory() as folder:
            return write(study, Path(folder) / "report").read_text(encoding="utf-8")
    except NormbenchError as error:
        return WAITING.format(html.escape(f"{error}. The report follows as runs end."))
