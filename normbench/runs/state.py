"""How a run stands, asked from outside: its state, its position, the last lines it printed."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from normbench.atomic import disk_errors
from normbench.errors import RunFailure

OVER = ("done", "diverged")


def read_status(path: Path) -> dict[str, Any]:
    """The content of status.json in `path`; {} without a file. Raises RunFailure if damaged."""
    file = path / "status.json"
    with disk_errors(file):
        return read_json(file) if file.exists() else {}


def run_state(path: Path) -> str:
    """The state of the run at `path`: of status.json, or new, damaged, running, killed.

    A run is killed if status.json says running and no process holds the lock. Unlike a process id,
    the lock is free as soon as the holder is gone, and works across machines.
    """
    try:
        state: str = read_status(path).get("state", "new")
    except RunFailure:
        return "damaged"
    if state not in OVER and is_held(path):
        return "running"
    return "killed" if state == "running" else state


def is_held(path: Path) -> bool:
    """Whether a process is training in `path` now."""
    if not (path / ".lock").exists():
        return False
    with disk_errors(path):
        try:
            with FileLock(path / ".lock", timeout=0):
                return False
        except Timeout:
            return True


def read_position(path: Path) -> int:
    """The number of finished steps of the run at `path`, by rows."""
    epochs, steps = read_rows(path / "metrics.csv"), read_rows(path / "steps.csv")
    finished = int(epochs[-1]["steps"]) if epochs else 0
    logged = int(steps[-1]["step"]) + 1 if steps else 0  # steps count from 0
    return max(finished, logged)


def last_output(path: Path, num_lines: int = 10) -> list[str]:
    """The last lines printed by the process of a run; [] without such a process."""
    log = path / "output.log"
    if not log.exists():
        return []
    return log.read_text(errors="replace").splitlines()[-num_lines:]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a CSV file, without an unfinished last row, as a power cut leaves.

    Raises RunFailure for a file that is no CSV text.
    """
    if not path.exists():
        return []
    try:
        whole_lines, _, _ = path.read_text().rpartition("\n")
        rows = list(csv.DictReader(whole_lines.splitlines()))
    except (UnicodeDecodeError, csv.Error):
        raise damaged(path) from None
    return [row for row in rows if None not in row and None not in row.values()]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises RunFailure for other content."""
    try:
        return dict(json.loads(path.read_text()).items())
    except (ValueError, AttributeError):
        raise damaged(path) from None


def damaged(path: Path) -> RunFailure:
    """The refusal of a file that cannot be used, with the way out."""
    return RunFailure(f"'{path}' is damaged: begin the run anew with --restart")
