"""Writes the records of runs that trained without a tracker."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from normbench.analysis.study import Study
from normbench.errors import NormbenchError, RunFailure, first_line
from normbench.runs.columns import Columns
from normbench.runs.files import is_run
from normbench.runs.row import KEYS
from normbench.trackers.tracker import subject_of, tell_rows, trackers

ENDED = ("done", "diverged", "interrupted", "failed")
# Names of folders and of runs in a query: a runs.csv may come from anybody.
PLAIN = re.compile(r"[\w.+=,-]*\w[\w.+=,-]*")


def export(study: Study, tracker: str, folder: Path) -> Iterator[str]:
    """Writes the record of each run that has trained and ended; yields the runs as it goes.

    An earlier record of the same run is replaced.

    Raises NormbenchError, before anything is written, for a tracker that is unknown or not
    installed, no run, a run whose name is no plain text, and a folder of runs; RunFailure where
    the tool fails.
    """
    open_record = trackers.build(tracker)
    ended = study.runs[study.runs["status"].isin(ENDED)]
    begun = ended[ended["run"].isin(study.environments)]
    if begun.empty:
        raise NormbenchError("none of these runs has trained and ended")
    for run in begun["run"]:
        if not PLAIN.fullmatch(run):
            raise NormbenchError(
                f"run {run!r}: a record needs a name of letters, digits and -_.+=,"
            )
        if is_run(folder / run):
            raise NormbenchError(f"'{folder}' is the folder of the runs themselves: name another")
    for row in begun.to_dict("records"):
        run = row["run"]
        reason = row["reason"] if isinstance(row["reason"], str) else None
        subject = subject_of(run, study.configs.get(run, {}), study.environments[run])
        try:
            record = open_record(folder, subject, True)
            tell_rows(record, _columns(study.metrics, run), _columns(study.steps, run))
            record.end(row["status"], reason or None, study.pictures.get(run))
        except Exception as error:
            raise RunFailure(f"tracker {tracker} failed at {run} ({first_line(error)})") from error
        yield run


def _columns(table: Any, run: str) -> Columns:
    """The columns of the rows that a table of a study has of one run."""
    rows = table[table["run"] == run].drop(columns=[*KEYS])
    return {str(name): column.to_numpy() for name, column in rows.items()}
