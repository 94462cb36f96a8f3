"""Places on this machine: paths as people write them, and the folder of the cache."""

from __future__ import annotations

import os
from pathlib import Path

from normbench.errors import NormbenchError


def user_path(key: str, given: str) -> Path:
    """The path that a setting gives, with ~ as the home folder.

    Raises NormbenchError with the setting's `key` for a NUL byte and for ~ of an unknown user.
    """
    try:
        if "\0" in given:
            raise ValueError("a path holds no NUL byte")
        return Path(given).expanduser()
    except (ValueError, RuntimeError) as error:
        raise NormbenchError(f"{key}: {given!r} is no path: {error}") from None


def default_cache_dir() -> Path:
    """`$NORMBENCH_CACHE`, else `normbench` under `$XDG_CACHE_HOME` or `~/.cache`."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    named = os.environ.get("NORMBENCH_CACHE")
    return user_path("$NORMBENCH_CACHE", named or f"{caches}/normbench")
