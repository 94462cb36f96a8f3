"""The runs of a plan as tables: what a sweep leaves behind."""

from __future__ import annotations

from collections.abc import Sequence

from normbench.analysis.frames import Frames, read_frames
from normbench.analysis.runfiles import refused_run
from normbench.plan import PlannedRun


def read_runs(planned: Sequence[PlannedRun]) -> Frames:
    """The tables of the planned runs that have begun, with a row for each that was refused; without damaged ones."""
    begun = [run for run in planned if run.state not in ("refused", "damaged", "new")]
    refused = [run for run in planned if run.state == "refused"]
    return read_frames(
        (run.config.run_path for run in begun if (run.config.run_path / "config.yaml").exists()),
        (refused_run(run.config.run_id, run.config.model_dump(mode="json"), run.reason or "") for run in refused),
    )
