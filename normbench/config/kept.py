"""Compositions of configuration files, kept in the cache: importing Hydra takes half a second.

They are known by the content of every file of the folder and by the versions that composed them.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from normbench.atomic import disk_errors, read_file, write_bytes
from normbench.checksums import sealed_bytes, unsealed_bytes
from normbench.config.places import default_cache_dir
from normbench.errors import NormbenchError

FILE = "compositions"
COMPOSERS = ("hydra-core", "omegaconf")
FORMAT = 1  # of the texts; another one makes those of earlier versions void


class Kept:
    """The compositions of the files of `folder`, as JSON by name, from earlier processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._content = _content_of(folder)
        self._texts = _read(self._content)

    def get(self, name: str) -> str | None:
        """The composition of a file; None where there is none yet."""
        return self._texts.get(name)

    def add(self, name: str, text: str) -> None:
        """Keeps a composition; where the disk refuses, later processes compose anew."""
        self._texts[name] = text
        # A file that was changed meanwhile may have been composed as it is now.
        if _content_of(self._folder) == self._content:
            _write(self._content, self._texts)


def _content_of(folder: Path) -> str:
    """A hash of the names and contents of the folder's files, and of the versions of COMPOSERS."""
    digest = hashlib.sha256(repr([FORMAT, *map(version, COMPOSERS)]).encode())
    for path in sorted(folder.rglob("*.yaml")):
        # A file that cannot be read is Hydra's to refuse.
        with suppress(OSError):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(folder)} {content}\n".encode())
    return digest.hexdigest()


def _read(content: str) -> dict[str, str]:
    # A damaged file is written anew.
    with suppress(NormbenchError, ValueError, TypeError, KeyError):
        kept = json.loads(unsealed_bytes(read_file(default_cache_dir() / FILE)))
        if kept["content"] == content:
            return dict(kept["texts"])
    return {}


def _write(content: str, texts: dict[str, str]) -> None:
    with suppress(NormbenchError):
        path = default_cache_dir() / FILE
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, sealed_bytes(json.dumps({"content": content, "texts": texts}).encode()))
