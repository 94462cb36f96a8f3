"""What the files of a run say while it trains: status, position, the last lines printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from normbench.atomic import disk_errors, read_file
from normbench.errors import RunFailure
from normbench.runs.records import UnknownSchema, check_status, parse_record

# What always helps a run that cannot go on. A sweep's own --restart would train all of its runs.
ANEW = "begin the run anew with --restart (normbench train), or remove it (normbench runs rm)"


def read_status(path: Path) -> dict[str, Any]:
    """The content of status.json in `path`; {} without a file. Raises RunFailure if damaged."""
    file = path / "status.json"
    try:
        return check_status(parse_record(read_file(file).decode())) if file.exists() else {}
    except UnknownSchema as error:
        raise RunFailure(f"'{file}' {error}: {ANEW}") from None
    except (ValueError, RecursionError):
        raise damaged(file) from None


def status_bytes(path: Path) -> bytes | None:
    """The bytes of status.json, to see whether it has changed; None where nothing can be read."""
    try:
        return (path / "status.json").read_bytes()
    except OSError:
        return None


def is_held(path: Path) -> bool:
    """Whether a process is training in `path` now. Raises RunFailure where no lock can be taken."""
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
    epoch, step = last_row(path / "metrics.csv"), last_row(path / "steps.csv")
    finished = epoch["steps"] if epoch else 0
    logged = step["step"] + 1 if step else 0  # steps count from 0
    return int(max(finished, logged))


def last_output(path: Path, num_lines: int = 10) -> list[str]:
    """The last lines printed by the process of a run; [] without such a process."""
    try:
        text = (path / "output.log").read_text(errors="replace")
    except OSError:
        return []
    return text.splitlines()[-num_lines:]


def last_row(path: Path) -> dict[str, float]:
    """The last whole row of a CSV file of numbers; {} without one.

    An unfinished row, as a power cut leaves, is none. Raises RunFailure for anything but numbers.
    """
    content = read_file(path) if path.exists() else b""
    header, _, rows = content.rpartition(b"\n")[0].partition(b"\n")
    try:
        values = [float(value) for value in rows.rpartition(b"\n")[2].split(b",")] if rows else []
        return dict(zip(header.decode().split(","), values, strict=True)) if values else {}
    except ValueError:
        raise damaged(path) from None


def damaged(path: Path) -> RunFailure:
    """The refusal of a file that cannot be used, with the way out."""
    return RunFailure(f"'{path}' is damaged: {ANEW}")


def changed_meanwhile(path: Path) -> RunFailure:
    """The refusal to go on with a file that something else has written or removed."""
    return RunFailure(f"'{path}' was changed while the run was training: {ANEW}")
