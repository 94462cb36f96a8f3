"""The comparison of a set of runs, as files: what a study leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from normbench.analysis.figures import loss_curves, save
from normbench.analysis.frames import Frames, read_frames, refused_run
from normbench.analysis.tables import comparison, to_markdown
from normbench.atomic import disk_errors, write_json, write_text
from normbench.plan import PlannedRun


def read_runs(planned: Sequence[PlannedRun]) -> Frames:
    """The tables of the planned runs that have begun, with a row for each that was refused; without damaged ones."""
    begun = [run for run in planned if run.state not in ("refused", "damaged", "new")]
    refused = [run for run in planned if run.state == "refused"]
    return read_frames(
        (run.config.run_path for run in begun if (run.config.run_path / "config.yaml").exists()),
        (refused_run(run.config.run_id, run.config.model_dump(mode="json"), run.reason or "") for run in refused),
        damaged=[],
    )


def write_comparison(frames: Frames, folder: Path) -> None:
    """Writes runs.csv, metrics.csv, steps.csv, env.json, table.md to `folder`, and the loss curves as SVG and PNG.

    The curves are drawn where a norm is one line: its runs differ in nothing but their seed.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("runs", frames.runs), ("metrics", frames.metrics), ("steps", frames.steps)):
        write_text(folder / f"{name}.csv", table.to_csv(index=False))
    write_json(folder / "env.json", frames.environments)
    write_text(folder / "table.md", to_markdown(frames.runs))
    if len(comparison(frames.runs)) == frames.runs["norm"].nunique():
        save(loss_curves(frames), folder / "loss_curves")
