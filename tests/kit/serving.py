"""`normbench serve` in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def served(*places: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, which is not left behind, and its address."""
    command = [sys.executable, "-m", "normbench", "serve", *map(str, places), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[0]
            yield process, url
        finally:
            process.kill()
