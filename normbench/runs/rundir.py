"""Writes the directory of a run: configuration, environment, status, rows and checkpoint.

Rows are written before their checkpoint, and rows without a checkpoint are dropped on resuming:
a run killed at any moment ends with the same files as a run never killed. A lock
lets a single process write.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from normbench.atomic import (
    disk_errors,
    read_file,
    sync_file,
    sync_folder,
    write_bytes,
    write_text,
)
from normbench.checksums import digest_of, sealed_bytes
from normbench.errors import RunFailure
from normbench.runs import correct
from normbench.runs.checkpoint import CHECKPOINTS, ROWS, read_checkpoint
from normbench.runs.records import (
    OVER,
    SCHEMA_VERSION,
    check_environment,
    parse_record,
    write_record,
)
from normbench.runs.rows import Rows
from normbench.runs.state import ANEW, changed_meanwhile, damaged, last_row, read_status
from normbench.text import visible

RESUMED = ("started", "command", "concurrent_runs", "versions", "hardware", "git")
PICTURE = "picture.png"  # what the network makes of a few test images, where it makes images
ALWAYS = ("config.yaml", "env.json")  # files without which no run is over
# Files whose checksums status.json holds once the run is over.
SEALED = (*ALWAYS, *ROWS, correct.FILE, PICTURE)
# In the order in which `restart` removes them: a run without a checkpoint begins anew, whatever
# else a kill has left.
FILES = (*CHECKPOINTS, "status.json", *ROWS, correct.FILE, PICTURE, "env.json", "config.yaml")


@dataclass
class RunDir:
    """The directory of a run, locked by this process; made by `open_run`."""

    path: Path

    def __post_init__(self) -> None:
        self._rows = {name: Rows(self.path / name) for name in ROWS}

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

        A resumed run keeps its first environment, and lists later environments in `resumed`. Its
        config.yaml is written anew, and so mended: only `system` can differ.
        """
        content = {**environment, "resumed": []}
        if self.has_checkpoint:
            content = self._environment()
            content["resumed"].append({key: environment[key] for key in RESUMED})
        write_text(self.path / "config.yaml", config)
        write_record(self.path / "env.json", content)
        self._write_status("running", started=self.status.get("started") or _now())

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Writes the row of an epoch through to the disk."""
        self._rows["metrics.csv"].append(row, durable=True)

    def append_step(self, row: Mapping[str, Any]) -> None:
        """Writes the row of a logged step; durable with the next checkpoint."""
        self._rows["steps.csv"].append(row, durable=False)

    def save_correct(self, bits: bytes) -> None:
        """Writes which test images are right after the last epoch, before its row is appended."""
        write_bytes(self.path / correct.FILE, bits)

    def save_picture(self, png: bytes) -> None:
        """Writes what the network makes of a few test images, before the last row is appended."""
        write_bytes(self.path / PICTURE, png)

    @property
    def has_checkpoint(self) -> bool:
        """Whether the run can be resumed."""
        return any((self.path / name).exists() for name in CHECKPOINTS)

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Writes a state with `epoch` and `step`, and keeps the checkpoint before.

        The checkpoint vouches for the rows up to here. Atomic on a full disk too.
        """
        import torch

        sync_file(self.path / "steps.csv")  # rows reach the disk before the checkpoint over them
        rows = {name: rows.mark for name, rows in self._rows.items()}
        # torch.save into a file reports a full disk as a RuntimeError of its own.
        buffer = io.BytesIO()
        facts = {"schema_version": SCHEMA_VERSION, "run": self.path.name, "rows": rows}
        torch.save({**facts, **state}, buffer)
        last, before = (self.path / name for name in CHECKPOINTS)
        write_bytes(last, sealed_bytes(buffer.getvalue()), keep=before)

    def load_checkpoint(self) -> tuple[dict[str, Any], str | None]:
        """The last whole checkpoint, and a remark if an older one had to do; drops later rows.

        Raises RunFailure where no checkpoint is whole, for one of another schema or run, and for
        rows that are not those of the checkpoint.
        """
        last, before = (self.path / name for name in CHECKPOINTS)
        state, remark = read_checkpoint(last), None
        if state is None:
            state = read_checkpoint(before)
            if state is None:
                raise damaged(last)
            is_missing = not last.exists()  # a kill between two renames
            what = "missing" if is_missing else "damaged"
            remark = f"'{last}' is {what}: going on from the checkpoint before it"
            _remove(last)  # or the next save would keep it in place of the whole one
        if state["run"] != self.path.name:
            raise RunFailure(f"the checkpoint in '{self.path}' is of {state['run']}: {ANEW}")
        for name, rows in self._rows.items():
            rows.go_back(state["rows"][name])
        return state, remark

    def discard_rows(self) -> None:
        """Removes all rows: a run killed before its first checkpoint starts from nothing."""
        for rows in self._rows.values():
            rows.discard()

    def finish(self, state: str, reason: str | None = None) -> None:
        """Records how the run ended: done, diverged, failed or interrupted, and why.

        A run that is over gets the checksums of its files, and keeps one checkpoint. Raises
        RunFailure where the rows are not those that this process wrote.
        """
        if state == "diverged":  # a kill may have left those of a better end
            _remove(self.path / correct.FILE)
            _remove(self.path / PICTURE)
        sums = self._sums() if state in OVER else {}
        told = None if reason is None else visible(reason, lines=True)
        self._write_status(state, reason=told, finished=_now(), sha256=sums)

    def fail(self, config: str, reason: str) -> None:
        """Records for a process that has failed, perhaps before config.yaml was written."""
        write_text(self.path / "config.yaml", config)
        self.finish("failed", reason)

    def last_metrics(self) -> dict[str, float]:
        """The row of the last epoch; {} before the first.

        Raises RunFailure for a damaged row, and where a finished run has no row.
        """
        path = self.path / "metrics.csv"
        row = last_row(path)
        if not row and self.status.get("state") == "done":
            raise damaged(path)
        return row

    def _sums(self) -> dict[str, str]:
        """The checksums of the files of a run that is over; removes the checkpoint but one."""
        for rows in self._rows.values():
            rows.check()
        for name in ALWAYS:
            if not (self.path / name).exists():
                raise changed_meanwhile(self.path / name)
        present = [name for name in SEALED if (self.path / name).exists()]
        with disk_errors(self.path):
            (self.path / CHECKPOINTS[1]).unlink(missing_ok=True)
            return {name: digest_of(self.path / name) for name in present}

    def _environment(self) -> dict[str, Any]:
        file = self.path / "env.json"
        if not file.exists():
            raise damaged(file)
        try:
            return check_environment(parse_record(read_file(file).decode()))
        except (ValueError, RecursionError):
            raise damaged(file) from None

    def _write_status(self, state: str, **known: Any) -> None:
        status = {"state": state, "reason": None}
        times = {"started": self.status.get("started"), "finished": None}
        write_record(self.path / "status.json", status | times | known)


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
            _remove(file)
        yield RunDir(path)
    finally:
        lock.release()


def _remove(file: Path) -> None:
    """Removes a file, or the folder that a person has put in its place."""
    with disk_errors(file):
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        file.unlink(missing_ok=True)


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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
