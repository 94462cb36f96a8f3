"""Writes the directory of a run: configuration, environment, status, rows and checkpoint.

Rows are written before their checkpoint, and rows without a checkpoint are dropped on resuming:
a run killed at any moment ends with the same files as a run never killed. A lock
lets a single process write.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from normbench.runs.state import OVER, damaged, read_json, read_rows, read_status

SCHEMA_VERSION = 1
STEP_COLUMNS = ("step", "epoch", "loss", "lr")
RESUMED = ("started", "command", "concurrent_runs", "versions", "hardware", "git")
FILES = ("checkpoint.pt", "status.json", "metrics.csv", "steps.csv", "env.json", "config.yaml")


@dataclass
class RunDir:
    """The directory of a run, locked by this process; made by `open_run`."""

    path: Path

    @property
    def status(self) -> dict[str, Any]:
        """The content of status.json: state, reason, started, finished; {} for a new run.

        state: running, done, diverged, failed or interrupted.
        """
        return read_status(self.path)

    @property
    def is_over(self) -> bool:
        """Whether the run has a result, which a second training would only repeat."""
        return self.status.get("state") in OVER

    def begin(self, config: str, environment: Mapping[str, Any]) -> None:
        """Writes config.yaml and env.json, and marks the run as running.

        A resumed run keeps its first environment, and lists later environments in `resumed`.
        """
        if self.has_checkpoint:
            content = read_json(self.path / "env.json")
            content["resumed"].append({key: environment[key] for key in RESUMED})
        else:
            write_text(self.path / "config.yaml", config)
            content = {"schema_version": SCHEMA_VERSION, **environment, "resumed": []}
        write_json(self.path / "env.json", content)
        self._write_status("running", started=self.status.get("started") or _now())

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Writes the row of an epoch through to the disk."""
        self._append("metrics.csv", row, durable=True)

    def append_step(self, row: Mapping[str, Any]) -> None:
        """Writes the row of a logged step; durable with the next checkpoint."""
        self._append("steps.csv", row, durable=False)

    @property
    def has_checkpoint(self) -> bool:
        """Whether the run can be resumed."""
        return (self.path / "checkpoint.pt").exists()

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replaces the checkpoint by a state with `epoch` and `step`; atomic on a full disk too."""
        import torch

        sync_file(self.path / "steps.csv")  # rows reach the disk before the checkpoint over them
        # torch.save into a file reports a full disk as a RuntimeError of its own.
        buffer = io.BytesIO()
        torch.save({"schema_version": SCHEMA_VERSION, **state}, buffer)
        write_bytes(self.path / "checkpoint.pt", buffer.getvalue())

    def load_checkpoint(self) -> dict[str, Any]:
        """The last saved state; drops the rows after it.

        Raises RunFailure for a damaged checkpoint, or another schema.
        """
        import torch

        path = self.path / "checkpoint.pt"
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            epoch, step, version = state["epoch"], state["step"], state["schema_version"]
        # torch raises another type for every kind of damage, and advises to trust the file.
        except Exception:
            raise damaged(path) from None
        if version != SCHEMA_VERSION:
            raise RunFailure(
                f"'{path}' is of schema {version}, "
                f"this normbench writes {SCHEMA_VERSION}: use --restart"
            )
        self._keep_rows("metrics.csv", lambda row: int(row["epoch"]) <= epoch, expected=epoch)
        self._keep_rows("steps.csv", lambda row: int(row["step"]) < step)
        return state

    def discard_rows(self) -> None:
        """Removes all rows: a run killed before its first checkpoint starts from nothing."""
        for name in ("metrics.csv", "steps.csv"):
            (self.path / name).unlink(missing_ok=True)

    def finish(self, state: str, reason: str | None = None) -> None:
        """Records how the run ended: done, diverged, failed or interrupted, and why."""
        self._write_status(state, reason=reason, finished=_now())

    def fail(self, config: str, reason: str) -> None:
        """Records for a process that has failed, perhaps before config.yaml was written."""
        if not (self.path / "config.yaml").exists():
            write_text(self.path / "config.yaml", config)
        self.finish("failed", reason)

    def last_metrics(self) -> dict[str, float]:
        """The row of the last epoch; {} before the first.

        Raises RunFailure for a damaged row, and where a finished run has no row.
        """
        path = self.path / "metrics.csv"
        rows = read_rows(path)
        if not rows and self.status.get("state") != "done":
            return {}
        try:
            last = {key: float(value) for key, value in rows[-1].items()}
            return {"epoch": last.pop("epoch"), **last}
        except (IndexError, KeyError, ValueError):
            raise damaged(path) from None

    def _append(self, name: str, row: Mapping[str, Any], *, durable: bool) -> None:
        path = self.path / name
        if not path.exists():
            append_line(path, _line(row), durable=durable)
        append_line(path, _line(row.values()), durable=durable)

    def _write_status(self, state: str, **known: str | None) -> None:
        status = {"schema_version": SCHEMA_VERSION, "state": state, "reason": None}
        times = {"started": self.status.get("started"), "finished": None}
        write_json(self.path / "status.json", status | times | known)

    def _keep_rows(
        self, name: str, keep: Callable[[Mapping[str, str]], bool], expected: int | None = None
    ) -> None:
        path = self.path / name
        try:
            rows = [row for row in read_rows(path) if keep(row)]
        except (KeyError, ValueError):
            raise damaged(path) from None
        if expected is not None and len(rows) != expected:
            raise damaged(path)
        if rows:
            lines = [_line(rows[0]), *(_line(row.values()) for row in rows)]
            write_text(path, "\n".join([*lines, ""]))
        else:
            path.unlink(missing_ok=True)


@contextmanager
def open_run(path: Path, *, restart: bool = False, patience: float = 0.5) -> Iterator[RunDir]:
    """The run directory at `path`, made and locked; emptied first if `restart`.

    Raises RunFailure if another process holds the lock for `patience` seconds: `is_held` takes the
    lock for a moment only, a training process for all of the training.
    """
    lock = FileLock(path / ".lock", timeout=patience)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise RunFailure(f"another process is training in '{path}'; leaving it alone") from None
    try:
        stale = list(path.glob(".*.tmp"))  # left by a kill during a replacement
        if restart:
            stale += [path / name for name in FILES]
        for file in stale:
            file.unlink(missing_ok=True)
        yield RunDir(path)
    finally:
        lock.release()


def remove_run(path: Path) -> None:
    """Removes a run as a whole; the next removal clears the leftovers of a killed one.

    Raises RunFailure if a process holds the run, and for a directory with files of another kind.
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
        sync_folder(path.parent)  # a power cut must not leave half a run
        with suppress(FileNotFoundError):  # another removal may clear the folder meanwhile
            shutil.rmtree(removed)


def _line(values: Iterable[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(values)
    return buffer.getvalue()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
