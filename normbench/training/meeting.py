"""The folder in which the agent of a run and its processes leave word for one another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.atomic import write_json


@dataclass(frozen=True)
class Meeting:
    """Files of one start of a run: the agent's order and wish to stop, the processes' failures."""

    folder: Path

    @property
    def config(self) -> Path:
        """The configuration of the run, as YAML."""
        return self.folder / "config.yaml"

    @property
    def order(self) -> Path:
        """What to do: restart, patience, the agent's process id, and the command of the run."""
        return self.folder / "order.json"

    @property
    def stop(self) -> Path:
        """Is there as soon as the run is asked to stop."""
        return self.folder / "stop"

    def store(self, attempt: int) -> Path:
        """The file by which the processes find one another; attempts count from 0."""
        return self.folder / f"store-{attempt}"

    def tell_end(self, told: dict[str, Any]) -> None:
        """A process tells that it ends the run: reason, traceback, exit_code. No restart helps."""
        write_json(self.folder / "end.json", told)

    def end(self) -> dict[str, Any] | None:
        """What `tell_end` was told, if anything."""
        file = self.folder / "end.json"
        return json.loads(file.read_text()) if file.exists() else None

    def tell_failure(self, attempt: int, rank: int, told: dict[str, Any]) -> None:
        """A process tells why it fails, before the others can notice: reason, traceback."""
        write_json(self.folder / f"failure-{attempt}-{rank}.json", told)

    def first_failure(self, attempt: int) -> dict[str, Any] | None:
        """What the first process that failed has told; the others fail since it is gone."""
        files = list(self.folder.glob(f"failure-{attempt}-*.json"))
        if not files:
            return None
        first = min(files, key=lambda file: file.stat().st_mtime_ns)
        return dict(json.loads(first.read_text()))
