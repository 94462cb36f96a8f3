"""How long runs will take, from finished runs of the same kind: all settings equal but seed, epochs and optimizer."""

from __future__ import annotations

import json
from pathlib import Path

from normbench.config.schema import RunConfig, from_yaml
from normbench.errors import NormbenchError
from normbench.runs.rundir import RunDir, run_state

MAX_LOOKED_AT = (
    20  # directories per kind: enough to find a finished run, few enough for folders of thousands
)
FREE = ("seed", "epochs", "optim")  # what may differ between runs of one kind


class Estimator:
    """Seconds that runs take, learned from the finished runs in their folder and from those that finish meanwhile."""

    def __init__(self) -> None:
        self._seconds_per_epoch: dict[str, float | None] = {}
        self._folders: dict[Path, list[str]] = {}

    def seconds(self, config: RunConfig) -> float | None:
        """What a run of this configuration takes in all; None where no run of its kind has finished."""
        kind = _kind(config)
        if kind not in self._seconds_per_epoch:
            self._seconds_per_epoch[kind] = self._from_finished_runs(config, kind)
        per_epoch = self._seconds_per_epoch[kind]
        return None if per_epoch is None else per_epoch * config.epochs

    def learn(self, config: RunConfig) -> None:
        """Takes the run of this configuration, which has just ended, as the measure of its kind if it is done."""
        if (
            run_state(config.run_path) == "done"
            and (seconds := _seconds_per_epoch(config.run_path)) is not None
        ):
            self._seconds_per_epoch[_kind(config)] = seconds

    def _from_finished_runs(self, config: RunConfig, kind: str) -> float | None:
        folder = config.run_path.parent
        if folder not in self._folders:
            self._folders[folder] = (
                sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
            )
        alike = config.run_id.rpartition("-s")[0] + "-s"
        for name in [name for name in self._folders[folder] if name.startswith(alike)][
            :MAX_LOOKED_AT
        ]:
            if (
                _kind_of_run(folder / name) == kind
                and (seconds := _seconds_per_epoch(folder / name)) is not None
            ):
                return seconds
        return None


def duration(seconds: float) -> str:
    """Seconds as people say them: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _kind(config: RunConfig) -> str:
    identity = config.identity()
    return json.dumps(
        {key: value for key, value in identity.items() if key not in FREE}, sort_keys=True
    )


def _kind_of_run(path: Path) -> str | None:
    try:
        return (
            _kind(from_yaml((path / "config.yaml").read_text()))
            if run_state(path) == "done"
            else None
        )
    except (NormbenchError, OSError, ValueError):
        return None  # a directory that is no run, or a damaged one, is no measure of anything


def _seconds_per_epoch(path: Path) -> float | None:
    try:
        row = RunDir(path).last_metrics()
    except NormbenchError:
        return None
    return (
        row["train_seconds"] + row["eval_seconds"]
        if {"train_seconds", "eval_seconds"} <= row.keys()
        else None
    )
