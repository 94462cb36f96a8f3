"""normbench serve: the report while runs train, on this machine alone, until Ctrl-C."""

from __future__ import annotations

import re
import signal
import socket
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from kit.runs import write_runs
from kit.serving import served

PATIENCE = 60


def text_of(url: str, **headers: str) -> str:
    with urlopen(Request(url, headers=headers), timeout=PATIENCE) as answer:
        content: str = answer.read().decode()
    return content


def page_with(url: str, pattern: str) -> str:
    """The page as soon as it has the pattern."""
    until = time.monotonic() + PATIENCE
    while not re.search(pattern, page := text_of(url)):
        assert time.monotonic() < until, page[-500:]
        time.sleep(0.2)
    return page


@pytest.mark.slow
def test_the_page_follows_the_runs_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    with served(runs) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        page_with(url, "no runs in .*: the folder is empty")
        write_runs(runs, ["bn"], [8], [0])
        first = page_with(url, "<h1")
        assert "id=run-normresnet-bn" in first.replace('"', "")
        version = int(text_of(f"{url}version"))
        write_runs(runs, ["gn"], [8], [0])
        page_with(url, "run-normresnet-gn")
        assert int(text_of(f"{url}version")) > version
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_a_stranger_s_name_for_this_machine_reads_nothing(tmp_path: Path) -> None:
    """A page from elsewhere whose host name leads to 127.0.0.1 is refused."""
    with served(tmp_path) as (_, url):
        port = url.rstrip("/").rpartition(":")[2]
        assert text_of(url, Host=f"localhost:{port}")
        with pytest.raises(HTTPError) as refused:
            text_of(url, Host=f"evil.example:{port}")
        assert refused.value.code == 403
        refused.value.close()
        with pytest.raises(HTTPError) as missing:
            text_of(f"{url}../etc/passwd")
        assert missing.value.code == 404
        missing.value.close()


def test_what_cannot_be_served_is_said_before_any_work(normbench: Any, tmp_path: Path) -> None:
    code, _, err = normbench("serve", str(tmp_path / "none"))
    assert (code, err.count("\n")) == (2, 1)
    assert "there is no folder" in err
    (tmp_path / "file").write_text("")
    code, _, err = normbench("serve", str(tmp_path / "file"))
    assert (code, err.count("\n")) == (2, 1)
    assert "is not a folder" in err
    runs = write_runs(tmp_path / "runs", ["bn"], [8], [0])
    code, _, err = normbench("serve", str(runs), "--where", "nrom=bn", "--port", "0")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean 'norm'?" in err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = normbench("serve", str(tmp_path), "--port", str(port))
    assert (code, err.count("\n")) == (2, 1)
    assert f"--port {port}: " in err
    assert normbench("serve", str(tmp_path), "--port", "99999")[0] == 2
