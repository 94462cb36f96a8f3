"""Which runs make a line, and which a panel: what is drawn together differs in nothing but the seed and the norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from normbench.analysis.captions import (
    beside_norm,
    commits,
    counted,
    describe,
    distinct,
    epochs,
    labelled,
    seeds,
)
from normbench.analysis.choice import at_chosen_rate
from normbench.analysis.figures.style import Looks, looks_of
from normbench.analysis.frames import Frames
from normbench.errors import NormbenchError

MAX_PANELS = 24


def prepared(frames: Frames) -> tuple[Frames, Looks]:
    """The runs with the line that each belongs to, and how each line looks in every figure of these runs.

    Raises NormbenchError where no run has finished.
    """
    if (frames.runs["status"] != "done").all():
        raise NormbenchError(f"no figure: none of {counted(len(frames.runs), 'run')} finished")
    runs = labelled(frames.runs)
    return replace(frames, runs=runs), looks_of(runs["line"].unique())


def finished(frames: Frames) -> Frames:
    """The finished runs, each norm at the learning rate chosen on held-out images where several were tried."""
    return replace(frames, runs=at_chosen_rate(frames.runs[frames.runs["status"] == "done"]))


def by_panel(runs: pd.DataFrame, x: str | None = None) -> list[tuple[str, pd.DataFrame]]:
    """A title and runs for each choice of the settings that vary, but the norm's own and the one on the x axis.

    Raises NormbenchError for more panels than one can look at.
    """
    varying = [name for name in beside_norm(runs) if name != x and runs[name].nunique() > 1]
    if not varying:
        return [("", runs)]
    found = [
        (describe(dict(zip(varying, key, strict=True))), group)
        for key, group in sorted(
            runs.groupby(varying, dropna=False), key=lambda panel: [*map(_rank, panel[0])]
        )
    ]
    if len(found) > MAX_PANELS:
        raise NormbenchError(
            f"{len(found)} panels, for {', '.join(varying)}: choose among them with --where"
        )
    return found


def by_line(runs: pd.DataFrame) -> dict[str, list[str]]:
    """The ids of the runs of each line, in the order of the runs."""
    return {str(label): group["run"].tolist() for label, group in runs.groupby("line", sort=False)}


class RowsOf:
    """The rows of a long table that belong to some runs, found without looking through it each time."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table
        self.places = table.groupby("run", sort=False).indices

    def __call__(self, runs: Sequence[str]) -> pd.DataFrame:
        """The rows of these runs; none for those that have none."""
        return self.table.take(
            np.concatenate([self.places.get(run, np.array([], dtype=int)) for run in runs])
        )


def basis(frames: Frames, *remarks: str) -> str:
    """The caption: data, settings that do not vary, seeds, device, versions, commit, and how to read the figure."""
    runs = frames.runs[frames.runs["status"] == "done"]
    lost = len(frames.runs) - len(runs)
    constant = {
        name: runs[name].iloc[0] for name in ("batch_size", "lr") if runs[name].nunique() == 1
    }
    parts = [
        f"Data {distinct(runs, 'data')}, {epochs(runs)}",
        describe(constant),
        counted(len(runs), "run") + f" ({lost} more did not finish)" * (lost > 0),
        seeds(runs["seed"].nunique()),
        f"{distinct(runs, 'device')}, {distinct(runs, 'precision')}, torch {distinct(runs, 'torch')}",
        f"commit {commits(runs)}.",
    ]
    return " ".join([", ".join(filter(None, parts)), *remarks])


def link(runs: pd.DataFrame, label: str, settings: Sequence[str] = ("batch_size",)) -> str:
    """Where a page shows the runs behind a line or point: those of this norm, and of the `settings` that they share."""
    shared = {name: runs[name].iloc[0] for name in settings if runs[name].nunique() == 1}
    told = {"norm": label.split()[0]} | shared
    return f"#runs:{';'.join(f'{name}={value}' for name, value in told.items())}"


def _rank(value: object) -> tuple[bool, float, str]:
    """Numbers by size, those that are text too, before words by the alphabet."""
    try:
        return (False, float(str(value)), "")
    except ValueError:
        return (True, 0.0, str(value))
