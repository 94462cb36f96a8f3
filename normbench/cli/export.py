"""normbench export: finished runs as records of TensorBoard, MLflow or Weights & Biases."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from normbench.cli.tables import Where
from normbench.errors import NormbenchError
from normbench.text import counted, say


def export(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories, folders of them, or a study's runs.csv."),
    ],
    folder: Annotated[Path, typer.Argument(help="Where the records go.")],
    to: Annotated[str, typer.Option(help="tensorboard, mlflow or wandb.")],
    where: Where = None,
) -> None:
    """Write the runs for TensorBoard, MLflow or Weights & Biases, offline.

    A run that is there already is replaced. A training is followed with system.trackers=NAME.

    \b
    normbench export results/first-sweep --to tensorboard records
    normbench export results/runs --to mlflow records --where norm=bn,gn
    """
    from normbench.analysis.loading import load_study
    from normbench.trackers import trackers
    from normbench.trackers.export import export as write_records

    # Before the runs are read.
    trackers.build(to)
    study = load_study([path.expanduser() for path in runs], where or ())
    for note in study.notes:
        say(note, to=sys.stderr)
    place = folder.expanduser()
    for parent in (place, *place.parents):
        if parent.exists() and not parent.is_dir():
            raise NormbenchError(f"'{parent}' is not a folder")
    number = len(list(write_records(study, to, place)))
    left_out = len(study.runs) - number
    others = f"; {left_out} left out, not begun or not ended" if left_out else ""
    say(f"{counted(number, 'run')} written to {place}{others}")
