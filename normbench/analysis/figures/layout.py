"""Which runs make a line, and which a panel: what is drawn together differs in nothing but the seed and the norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pandas as pd

from normbench.analysis.choice import at_chosen_rate
from normbench.analysis.frames import Frames
from normbench.analysis.provenance import commits, describe, distinct, settings_columns
from normbench.errors import NormbenchError

MAX_PANELS = 24


def finished(frames: Frames) -> Frames:
    """The finished runs, each norm at the learning rate that was best on held-out images where several were tried.

    Raises NormbenchError where none has finished.
    """
    runs = frames.runs[frames.runs["status"] == "done"]
    if runs.empty:
        raise NormbenchError(f"no figure: none of {len(frames.runs)} runs finished")
    return replace(frames, runs=at_chosen_rate(runs))


def by_panel(runs: pd.DataFrame, x: str | None = None) -> list[tuple[str, pd.DataFrame]]:
    """A title and runs for each choice of the settings that vary, but the norm's own and the one on the x axis.

    Raises NormbenchError for more panels than one can look at.
    """
    settings = [name for name in settings_columns(runs) if name != x and not name.startswith("norm.")]
    varying = [name for name in settings if runs[name].nunique() > 1]
    if not varying:
        return [("", runs)]
    found = [
        (describe(dict(zip(varying, key, strict=True))), group)
        for key, group in runs.groupby(varying, sort=True, dropna=False)
    ]
    if len(found) > MAX_PANELS:
        raise NormbenchError(f"{len(found)} panels, for {', '.join(varying)}: choose among them with --where")
    return found


def by_line(runs: pd.DataFrame) -> dict[str, list[str]]:
    """The ids of the runs of each line: a norm, with its options where they vary."""
    options = [name for name in settings_columns(runs) if name.startswith("norm.") and runs[name].nunique() > 1]
    lines: dict[str, list[str]] = {}
    for key, group in runs.groupby(["norm", *options], sort=False, dropna=False):
        values = {name.removeprefix("norm."): value for name, value in zip(options, key[1:], strict=True) if value}
        lines[" ".join([str(key[0]), describe(values)]).strip()] = group["run"].tolist()
    return lines


def rows_of(table: pd.DataFrame, runs: Sequence[str]) -> pd.DataFrame:
    """The rows of a long table that belong to these runs."""
    return table[table["run"].isin(runs)]


def basis(frames: Frames, *remarks: str) -> str:
    """The caption: data, settings that do not vary, seeds, device, versions, commit, and how to read the figure."""
    runs = frames.runs
    constant = {name: runs[name].iloc[0] for name in ("batch_size", "lr") if runs[name].nunique() == 1}
    seeds = runs["seed"].nunique()
    parts = [
        f"Data {distinct(runs, 'data')}, {distinct(runs, 'epochs')} epochs",
        describe(constant),
        f"{len(runs)} runs, {'one seed' if seeds == 1 else f'{seeds} seeds'}",
        f"{distinct(runs, 'device')}, {distinct(runs, 'precision')}, torch {distinct(runs, 'torch')}",
        f"commit {commits(runs)}.",
    ]
    return " ".join([", ".join(filter(None, parts)), *remarks])


def links(labels: Sequence[str], values: Sequence[object]) -> Iterator[str]:
    """Where a page shows the runs behind each point: of this norm, at this batch size."""
    yield from (f"#runs:{label.split()[0]}:{value}" for label, value in zip(labels, values, strict=True))
