"""One run on disk: its configuration, environment, status, rows and checkpoint.

A row is written before the checkpoint that covers it, and on resuming the rows that no checkpoint covers are dropped:
so whenever a run is killed, its files end up as if it had not been. One process at a time holds the directory.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from normbench.atomic import (
    append_line,
    disk_errors,
    sync_file,
    sync_folder,
    write_bytes,
    write_json,
    write_text,
)
from normbench.errors import RunFailure

SCHEMA_VERSION = 1
OVER = ("done", "diverged")
STEP_COLUMNS = ("step", "epoch", "loss", "lr")
RESUMED = ("started", "command", "concurrent_runs", "versions", "hardware", "git")
FILES = ("checkpoint.pt", "status.json", "metrics.csv", "steps.csv", "env.json", "config.yaml")


@dataclass
class RunDir:
    """The directory of one run, held by this process; made by `open_run`."""

    path: Path

    @property
    def status(self) -> dict[str, Any]:
        """What status.json says: state (running, done, diverged, failed, interrupted), reason, times; {} if new."""
        return read_status(self.path)

    @property
    def is_over(self) -> bool:
        """Whether the run has ended with a result, which training again would only repeat."""
        return self.status.get("state") in OVER

    def begin(self, config: str, environment: Mapping[str, Any]) -> None:
        """Writes what the run is and where it runs, and marks it running. A resumed run keeps its first environment."""
        if not self.has_checkpoint:
            write_text(self.path / "config.yaml", config)
            write_json(
                self.path / "env.json",
                {"schema_version": SCHEMA_VERSION, **environment, "resumed": []},
            )
        else:
            first = _read_json(self.path / "env.json")
            first["resumed"].append({key: environment[key] for key in RESUMED})
            write_json(self.path / "env.json", first)
        started = self.status.get("started") or _now()
        self._write_status("running", None, started, None)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """One epoch's row, on the disk when this returns."""
        _append_row(self.path / "metrics.csv", row, durable=True)

    def append_step(self, row: Mapping[str, Any]) -> None:
        """One logged step's row; the checkpoint that follows vouches for it."""
        _append_row(self.path / "steps.csv", row, durable=False)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to resume from."""
        return (self.path / "checkpoint.pt").exists()

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replaces the checkpoint; on a full disk the old one stays. The state holds `epoch` and `step`."""
        import torch

        sync_file(self.path / "steps.csv")  # its rows are on the disk before what covers them
        buffer = io.BytesIO()  # so that a full disk is an OSError at our own write
        torch.save({"schema_version": SCHEMA_VERSION, **state}, buffer)
        write_bytes(self.path / "checkpoint.pt", buffer.getvalue())

    def load_checkpoint(self) -> dict[str, Any]:
        """The state saved last; the rows written after it are dropped."""
        import torch

        path = self.path / "checkpoint.pt"
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            epoch, step, version = state["epoch"], state["step"], state["schema_version"]
        except (
            Exception
        ):  # torch raises a different type for every kind of damage, with advice not to be followed
            raise _damaged(path) from None
        if version != SCHEMA_VERSION:
            raise RunFailure(
                f"'{path}' is of schema {version}, this normbench writes {SCHEMA_VERSION}: use --restart"
            )
        self._keep_rows("metrics.csv", lambda row: int(row["epoch"]) <= epoch, expected=epoch)
        self._keep_rows("steps.csv", lambda row: int(row["step"]) < step)
        return state

    def discard_rows(self) -> None:
        """Forgets every row: a run killed before its first checkpoint starts from nothing."""
        for name in ("metrics.csv", "steps.csv"):
            (self.path / name).unlink(missing_ok=True)

    def finish(self, state: str, reason: str | None = None) -> None:
        """Records how the run ended: done, diverged, failed or interrupted, and why."""
        self._write_status(state, reason, self.status.get("started"), _now())

    def fail(self, config: str, reason: str) -> None:
        """Records from outside that the process of this run has failed, perhaps before it had written anything."""
        if not (self.path / "config.yaml").exists():
            write_text(self.path / "config.yaml", config)
        self.finish("failed", reason)

    def last_metrics(self) -> dict[str, float]:
        """The last epoch's row; {} before the first. Raises RunFailure where a run that is done has none."""
        path = self.path / "metrics.csv"
        rows = _read_rows(path)
        if (rows and "epoch" not in rows[-1]) or (not rows and self.status.get("state") == "done"):
            raise _damaged(path)
        try:
            return {key: float(value) for key, value in rows[-1].items()} if rows else {}
        except ValueError:
            raise _damaged(path) from None

    def _write_status(
        self, state: str, reason: str | None, started: str | None, finished: str | None
    ) -> None:
        status = {"state": state, "reason": reason, "started": started, "finished": finished}
        write_json(self.path / "status.json", {"schema_version": SCHEMA_VERSION, **status})

    def _keep_rows(
        self, name: str, keep: Callable[[Mapping[str, str]], bool], expected: int | None = None
    ) -> None:
        path = self.path / name
        try:
            rows = [row for row in _read_rows(path) if keep(row)]
        except (KeyError, ValueError):
            raise _damaged(path) from None
        if expected is not None and len(rows) != expected:
            raise _damaged(path)
        if rows:
            lines = [_line(rows[0].keys()), *(_line(row.values()) for row in rows)]
            write_text(path, "\n".join([*lines, ""]))
        else:
            path.unlink(missing_ok=True)


@contextmanager
def open_run(path: Path, *, restart: bool = False, patience: float = 0.5) -> Iterator[RunDir]:
    """The run directory at `path`, locked; `restart` empties it first.

    Raises RunFailure when another process holds it for longer than `patience` seconds (one that only asks whether
    somebody does is gone sooner).
    """
    lock = FileLock(path / ".lock", timeout=patience)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise RunFailure(f"another process is training in '{path}'; leaving it alone") from None
    try:
        unfinished = path.glob(".*.tmp")  # what a kill left of a file that was being replaced
        for stale in (*unfinished, *(path / name for name in FILES if restart)):
            stale.unlink(missing_ok=True)
        yield RunDir(path)
    finally:
        lock.release()


def read_status(path: Path) -> dict[str, Any]:
    """The status of the run at `path`; {} where there is none."""
    file = path / "status.json"
    with disk_errors(file):
        return _read_json(file) if file.exists() else {}


def run_state(path: Path) -> str:
    """How the run at `path` stands: as its status says; `new` without one, `damaged` where that cannot be read.

    `killed` is what says running and is not: the lock is asked, not a process id, and it is free as soon as whoever
    held it is gone, on whichever machine.
    """
    try:
        state: str = read_status(path).get("state", "new")
    except RunFailure:
        return "damaged"
    if state not in OVER and is_held(path):
        return "running"
    return "killed" if state == "running" else state


def is_held(path: Path) -> bool:
    """Whether a process is training in `path` at this moment."""
    if not (path / ".lock").exists():
        return False
    with disk_errors(path):
        try:
            with FileLock(path / ".lock", timeout=0):
                return False
        except Timeout:
            return True


def read_position(path: Path) -> int:
    """How many steps the run at `path` has done, as far as its rows tell."""
    ends = [(row["steps"], 0) for row in _read_rows(path / "metrics.csv")[-1:]]
    ends += [(row["step"], 1) for row in _read_rows(path / "steps.csv")[-1:]]
    return max((int(step) + more for step, more in ends), default=0)


def last_output(path: Path, num_lines: int = 10) -> list[str]:
    """The last lines that a run in a process of its own has printed."""
    log = path / "output.log"
    return log.read_text(errors="replace").splitlines()[-num_lines:] if log.exists() else []


def remove_run(path: Path) -> None:
    """Removes a run as a whole: killed half-way, it leaves none, and the next removal clears what is left of it.

    Raises RunFailure when a process holds the run, and for a directory that is none or holds what no run writes.
    """
    path = path.resolve()
    removed = path.with_name(f".removed-{path.name}")
    for leftover in path.parent.glob(".removed-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    inside = {entry.name for entry in path.glob("[!.]*")} if path.is_dir() else set()
    if not inside & {*FILES} or not inside <= {*FILES, "output.log"}:
        raise RunFailure(f"'{path}' is not a run, or holds files of another kind; leaving it alone")
    with open_run(path), disk_errors(path):
        path.rename(removed)
        sync_folder(path.parent)  # a power cut, too, leaves no half run
        with suppress(FileNotFoundError):  # another removal clears it at the same time
            shutil.rmtree(removed)


def _append_row(path: Path, row: Mapping[str, Any], *, durable: bool) -> None:
    if not path.exists():
        append_line(path, _line(list(row)), durable=durable)
    append_line(path, _line(row.values()), durable=durable)


def _read_rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a CSV file; one that a power cut left unfinished is not among them."""
    if not path.exists():
        return []
    try:
        whole_lines, _, _ = path.read_text().rpartition("\n")
        rows = list(csv.DictReader(io.StringIO(whole_lines)))
    except (UnicodeDecodeError, csv.Error):
        raise _damaged(path) from None
    return [row for row in rows if None not in row and None not in row.values()]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError:
        raise _damaged(path) from None
    if not isinstance(content, dict):
        raise _damaged(path)
    return content


def _damaged(path: Path) -> RunFailure:
    return RunFailure(f"'{path}' is damaged: begin the run anew with --restart")


def _line(values: Any) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(values)
    return buffer.getvalue()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
