"""Lists the runs in a folder for `normbench runs`, a row each, chosen and sorted.

A run directory in any state, begun, killed or damaged, is a row and never an error.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.config.schema import flatten, is_run_id
from normbench.errors import unknown
from normbench.runs.files import RunFiles, read_run, run_dirs
from normbench.runs.records import defects_of, task_of
from normbench.runs.row import row_columns, run_row
from normbench.runs.standing import standing
from normbench.runs.where import Record, is_missing, rank, select
from normbench.tasks.metric import TaskRecord
from normbench.text import counted, visible, visible_in

WIDTH = 100
LEAST_REASON = 12  # columns of a reason, even beside long run ids


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
    listing = Listing([], {})
    for path in run_dirs(runs_dir):
        files = read_run(path)
        listing.rows.append(run_record(path, files))
        if not files.damaged:
            task = task_of(files.environment)
            listing.tasks[task.name] = task
    rows = listing.rows
    if sort is not None and rows:
        rows = _sorted(listing, sort)
    return Listing(select(rows, where), listing.tasks)


def failed_runs(runs_dir: Path) -> list[Path]:
    """The directories in `runs_dir` of runs that failed or are damaged.

    A copy or a link that a person has made is none of them, whatever it holds.
    """
    found = []
    for path in run_dirs(runs_dir):
        is_ours = is_run_id(path.name) and not path.is_symlink()
        if is_ours and standing(path).state in ("failed", "damaged"):
            found.append(path)
    return found


def run_record(path: Path, files: RunFiles) -> dict[str, Any]:
    """The row of a run with planned epochs, time of start, and flat configuration.

    broken: the defects of an own norm by which its figures are not comparable; None without any.
    """
    config = flatten(files.config)
    stands = standing(path, files)
    return {
        **config,
        **run_row(files),
        "status": stands.state,
        "reason": stands.reason,
        "planned_epochs": config.get("epochs"),
        "started": files.status.get("started"),
        "broken": " and ".join(defects_of(files.environment)) or None,
    }


def to_text(listing: Listing) -> str:
    """The runs as an aligned table of at most 100 columns, and how many ended how."""
    from tabulate import tabulate

    primaries = dict.fromkeys(visible(task.primary.title) for task in listing.tasks.values())
    rows = [visible_in(_cells(row, listing.tasks)) for row in listing.rows]
    names = ["run", "status", "epochs", *primaries, "s/epoch"]
    names = [name for name in names if any(row[name] for row in rows if name in row)]
    # The headings are a row: tabulate would widen the columns of headings.
    cells = [names, *([row.get(name, "") for name in names] for row in rows)]
    align = ["left", "left", *["right"] * (len(names) - 2)]
    table = tabulate(cells, tablefmt="plain", disable_numparse=True, colalign=align)
    lines = table.splitlines()
    width = max(map(len, lines))
    reasons = [row["reason"] for row in rows]
    if any(reasons):
        for place, reason in enumerate(["reason", *reasons]):
            shown = cut(reason, max(WIDTH - width - 2, LEAST_REASON))
            lines[place] = f"{lines[place]:{width}}  {shown}".rstrip()
    lines.append("")
    if any(row["s/epoch"].endswith("*") for row in rows):
        lines.append("* shared the machine with other runs: not to be compared")
    broken = [f"{row['norm']} {row['broken']}" for row in listing.rows if row["broken"]]
    lines += [f"{norm}: its figures are not comparable" for norm in dict.fromkeys(broken)]
    return "\n".join([*lines, _summary(listing.rows)])


def to_json(listing: Listing) -> str:
    """The runs as a JSON list of objects with every column; null where a run has no value."""
    columns = listing.columns
    rows = [{name: _json_value(row.get(name)) for name in columns} for row in listing.rows]
    return json.dumps(rows, indent=2, allow_nan=False, default=str)


def cut(text: str, width: int) -> str:
    """The text, or its beginning and dots."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def one_line(text: str | None) -> str:
    """A reason without line breaks; "" for None."""
    return " ".join((text or "").split())


def _sorted(listing: Listing, sort: str) -> list[Record]:
    key = sort.removeprefix("-")
    if key not in listing.columns:
        raise unknown("key", key, listing.columns)
    known = [row for row in listing.rows if not is_missing(row.get(key))]
    missing = [row for row in listing.rows if is_missing(row.get(key))]
    return [*sorted(known, key=lambda row: rank(row[key]), reverse=sort.startswith("-")), *missing]


def _cells(row: Record, tasks: Mapping[str, TaskRecord]) -> dict[str, str]:
    cells = {
        "run": row["run"],
        "status": row["status"],
        "epochs": f"{row['epochs']}/{row['planned_epochs']}".removesuffix("/None"),
        "s/epoch": "",
        "reason": "" if row["status"] == "done" else one_line(row["reason"]),
    }
    if row["task"] in tasks:
        primary = tasks[row["task"]].primary
        reached: Any = row.get(f"test_{primary.name}")
        if not is_missing(reached):
            cells[primary.title] = primary.show(reached)
    seconds = row["median_train_seconds"]
    if seconds is not None:
        mark = "*" if row["concurrent_runs"] > 1 else ""
        cells["s/epoch"] = f"{seconds:.1f}{mark}"
    return cells


def _summary(rows: Sequence[Record]) -> str:
    """The number of runs by state: `36 runs: 30 done, 4 failed, 2 diverged`."""
    states = Counter(row["status"] for row in rows)
    order = sorted(states, key=lambda state: (state != "done", -states[state], state))
    counts = ", ".join(f"{states[state]} {state}" for state in order)
    return f"{counted(len(rows), 'run')}: {counts}"


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
