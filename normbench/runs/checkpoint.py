"""Reads checkpoints: the state of a training, and the rows of the run that it vouches for."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normbench.atomic import read_file
from normbench.checksums import unsealed_bytes
from normbench.errors import RunFailure
from normbench.runs.records import SCHEMA_VERSION
from normbench.runs.state import ANEW

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")
ROWS = ("metrics.csv", "steps.csv")


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state in a checkpoint; None for a damaged or missing file.

    Raises RunFailure for another schema, and where the disk refuses.
    """
    import torch

    content = read_file(path) if path.is_file() else b""
    try:
        plain = io.BytesIO(unsealed_bytes(content))
        state: dict[str, Any] = torch.load(plain, map_location="cpu", weights_only=True)
        version = state["schema_version"]
        if version == SCHEMA_VERSION:
            state["run"] = str(state["run"])
            state["rows"] = _row_positions(state["rows"])
    # torch raises another type for every kind of damage, and advises to trust the file.
    except Exception:
        return None
    if version != SCHEMA_VERSION:
        raise RunFailure(
            f"'{path}' is of schema {version}, this normbench writes {SCHEMA_VERSION}: {ANEW}"
        )
    return state


def _row_positions(rows: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """The bytes and the checksum of each table of rows. Raises for any other content."""
    positions = {}
    for name in ROWS:
        size, sha256 = rows[name]
        positions[name] = int(size), str(sha256)
    return positions
