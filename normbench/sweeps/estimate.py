"""The estimated time of runs: by finished runs of the same kind, else by a few steps.

Runs of a kind share all settings but seed, epochs and optimizer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from normbench.config.schema import RunConfig, from_yaml
from normbench.errors import NormbenchError
from normbench.runs.rundir import RunDir
from normbench.runs.standing import standing

if TYPE_CHECKING:
    from normbench.sweeps.step_times import StepTimes

# Directories read per kind: enough to meet a finished run, few enough for folders of thousands.
MAX_LOOKED_AT = 20


class Estimator:
    """Seconds per epoch of each kind, learned from finished runs.

    steps: what is known of kinds without a finished run.
    """

    def __init__(self, steps: StepTimes | None = None) -> None:
        self.steps = steps
        self._seconds_per_epoch: dict[str, float | None] = {}
        self._folders: dict[Path, list[str]] = {}

    def seconds(self, config: RunConfig) -> float | None:
        """Returns the seconds of a whole run; None where nothing is known of its kind."""
        per_epoch = self._per_epoch(config)
        if per_epoch is not None:
            return per_epoch * config.epochs
        return None if self.steps is None else self.steps.seconds(config)

    def is_rough(self, config: RunConfig) -> bool:
        """Whether the seconds are those of another kind."""
        if self._per_epoch(config) is not None or self.steps is None:
            return False
        return not self.steps.is_timed(config)

    def unfinished(self, configs: Sequence[RunConfig]) -> list[RunConfig]:
        """Returns the runs of kinds of which none has finished."""
        return [config for config in configs if self._per_epoch(config) is None]

    def learn(self, config: RunConfig) -> None:
        """Takes a run just ended as the measure of its kind, provided the run is done."""
        seconds = _seconds_per_epoch(config.run_path)
        if seconds is not None:
            self._seconds_per_epoch[_kind(config)] = seconds

    def _per_epoch(self, config: RunConfig) -> float | None:
        kind = _kind(config)
        if kind not in self._seconds_per_epoch:
            self._seconds_per_epoch[kind] = self._from_finished_runs(config.run_path, kind)
        return self._seconds_per_epoch[kind]

    def _from_finished_runs(self, path: Path, kind: str) -> float | None:
        folder = path.parent
        if folder not in self._folders:  # listed once: a plan asks for thousands of runs
            self._folders[folder] = sorted(entry.name for entry in folder.glob("*"))
        prefix = path.name.rpartition("-s")[0] + "-s"  # model, norm and batch size
        alike = [name for name in self._folders[folder] if name.startswith(prefix)]
        for name in alike[:MAX_LOOKED_AT]:
            seconds = _seconds_per_epoch(folder / name)
            if seconds is not None and _kind_of_run(folder / name) == kind:
                return seconds
        return None


def duration(seconds: float) -> str:
    """Writes seconds for people: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _kind(config: RunConfig) -> str:
    settings = config.identity()
    for key in ("seed", "epochs", "optim"):
        del settings[key]
    return json.dumps(settings, sort_keys=True)


def _kind_of_run(path: Path) -> str | None:
    # A damaged configuration is no measure of any kind.
    with suppress(NormbenchError, OSError, ValueError):
        return _kind(from_yaml((path / "config.yaml").read_text()))
    return None


def _seconds_per_epoch(path: Path) -> float | None:
    """Returns the seconds of the last epoch, evaluation included; None for an unfinished run."""
    with suppress(NormbenchError, OSError, KeyError):
        if standing(path).state == "done":
            row = RunDir(path).last_metrics()
            return row["train_seconds"] + row["eval_seconds"]
    return None
