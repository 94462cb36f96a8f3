"""Lists the runs in a folder for `normbench runs`, a row each, chosen and sorted.

A run directory in any state, begun, killed or damaged, is a row and never an error.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.config.schema import flatten
from normbench.errors import unknown
from normbench.runs.files import RunFiles, read_run, run_dirs, standing
from normbench.runs.row import row_columns, run_row, task_of
from normbench.runs.where import Record, is_missing, rank, select
from normbench.tasks.metric import TaskRecord

WIDTH = 100
LEAST_REASON = 12  # columns of a reason, even beside long run ids
WORDS = ("run", "status", "reason")


@dataclass(frozen=True)
class Listing:
    """Rows of runs, and the tasks of the runs by name."""

    rows: list[Record]
    tasks: dict[str, TaskRecord]

    @property
    def columns(self) -> list[str]:
        """All columns: first the table of runs, then settings in the order of the runs."""
        names = dict.fromkeys(row_columns(self.tasks.values()))
        for row in self.rows:
            names |= dict.fromkeys(row)
        return list(names)


def list_runs(runs_dir: Path, where: Sequence[str] = (), sort: str | None = None) -> Listing:
    """The runs in `runs_dir` for which all conditions of `where` hold, by `sort` or by run id.

    sort: a column, with the sign - from the largest; runs without a value come last.
    Raises NormbenchError for an unreadable condition, and for an unknown key.
    """
    files = [(path, read_run(path)) for path in run_dirs(runs_dir)]
    rows: list[Record] = [run_record(path, run) for path, run in files]
    tasks = [task_of(run.environment) for _, run in files if not run.damaged]
    listing = Listing(rows, {task.name: task for task in tasks})
    if sort is not None and rows:
        rows = _sorted(listing, sort)
    return Listing(select(rows, where), listing.tasks)


def run_record(path: Path, files: RunFiles) -> dict[str, Any]:
    """The row of a run with planned epochs, time of start, and flat configuration."""
    config = flatten(files.config)
    row = run_row(files) | standing(path, files)
    row |= {"planned_epochs": config.get("epochs"), "started": files.status.get("started")}
    return row | {key: value for key, value in config.items() if key not in row}


def to_text(listing: Listing) -> str:
    """The runs as an aligned table of at most 100 columns, and how many ended how."""
    cells = [_cells(row, listing.tasks) for row in listing.rows]
    columns: dict[str, list[str]] = {}
    for name in _headings(listing.tasks):
        values = [row.get(name, "") for row in cells]
        if any(values):
            columns[name] = [name, *values]
    lines = [*aligned(columns), ""]
    if any(row["concurrent_runs"] > 1 for row in listing.rows if row["median_train_seconds"]):
        lines.append("* shared the machine with other runs: not to be compared")
    return "\n".join([*lines, _summary(listing.rows)])


def to_json(listing: Listing) -> str:
    """The runs as a JSON list of objects with every column; null where a run has no value."""
    rows = []
    for row in listing.rows:
        rows.append({name: _json_value(row.get(name)) for name in listing.columns})
    return json.dumps(rows, indent=2, allow_nan=False, default=str)


def aligned(columns: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The lines of a table, words to the left and figures to the right.

    Reasons get the rest of WIDTH.
    """
    widths = {name: max(map(len, cells)) for name, cells in columns.items()}
    if "reason" in widths:
        taken = sum(width + 2 for name, width in widths.items() if name != "reason")
        widths["reason"] = min(widths["reason"], max(WIDTH - taken, LEAST_REASON))
    for cells in zip(*columns.values(), strict=True):
        line = []
        for (name, width), cell in zip(widths.items(), cells, strict=True):
            text = cut(cell, width)
            line.append(text.ljust(width) if name in WORDS else text.rjust(width))
        yield "  ".join(line).rstrip()


def cut(text: str, width: int) -> str:
    """The text, or its beginning and dots."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def one_line(text: Any) -> str:
    """A reason without line breaks; "" for None."""
    return " ".join(text.split()) if text else ""


def _sorted(listing: Listing, sort: str) -> list[Record]:
    key = sort.removeprefix("-")
    if key not in listing.columns:
        raise unknown("key", key, listing.columns)
    known = [row for row in listing.rows if not is_missing(row.get(key))]
    missing = [row for row in listing.rows if is_missing(row.get(key))]
    return [*sorted(known, key=lambda row: rank(row[key]), reverse=sort.startswith("-")), *missing]


def _headings(tasks: Mapping[str, TaskRecord]) -> list[str]:
    """The columns in order, among them the primary metric of each task."""
    primaries = dict.fromkeys(task.primary.title for task in tasks.values())
    return ["run", "status", "epochs", *primaries, "s/epoch", "reason"]


def _cells(row: Record, tasks: Mapping[str, TaskRecord]) -> dict[str, str]:
    """The cells of a run, "" for unknown values."""
    planned = row["planned_epochs"]
    cells = {
        "run": row["run"],
        "status": row["status"],
        "epochs": str(row["epochs"]),
    }
    if planned is not None:
        cells["epochs"] += f"/{planned}"
    task = tasks.get(row["task"])
    if task is not None:
        reached: Any = row.get(f"test_{task.primary.name}")
        if not is_missing(reached):
            cells[task.primary.title] = task.primary.show(reached)
    seconds = row["median_train_seconds"]
    if seconds is not None:
        cells["s/epoch"] = f"{seconds:.1f}"
        if row["concurrent_runs"] > 1:
            cells["s/epoch"] += "*"
    if row["status"] != "done":
        cells["reason"] = one_line(row["reason"])
    return cells


def _summary(rows: Sequence[Record]) -> str:
    """The number of runs by state: `36 runs: 30 done, 4 failed, 2 diverged`."""
    states = Counter(row["status"] for row in rows)
    order = sorted(states, key=lambda state: (state != "done", -states[state], state))
    counts = ", ".join(f"{states[state]} {state}" for state in order)
    return f"{len(rows)} {'run' if len(rows) == 1 else 'runs'}: {counts}"


def _json_value(value: Any) -> Any:
    """The value with null for nan and infinity, unknown to JSON."""
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
