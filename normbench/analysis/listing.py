"""The runs in a folder, one row each, chosen and sorted: what `normbench runs` shows.

A run directory may be in any state (begun, killed, damaged), and each of them is a row, not an error.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from normbench.analysis.frames import RUNS, run_row
from normbench.analysis.where import is_missing, select, text_of
from normbench.config.schema import flatten
from normbench.errors import unknown
from normbench.runs.files import read_run, run_dirs, standing

WIDTH = 100
LEAST = 12  # columns that a reason gets even where the run ids leave less
WORDS = ("run", "status", "reason")


def list_runs(runs_dir: Path, where: str | None = None, sort: str | None = None) -> pd.DataFrame:
    """A row per run in `runs_dir` for which `where` holds, by `sort`, or by run id.

    Columns: those of `Frames.runs`, `planned_epochs`, `started`, and every dotted key of the configurations. Values are
    as in the files (dtype object), None where a run has none. `-key` sorts from the largest; missing ones come last.
    Raises NormbenchError for a condition that cannot be read and for a key that no run has.
    """
    records: Sequence[Mapping[str, Any]] = [run_record(path) for path in run_dirs(runs_dir)]
    columns = list(dict.fromkeys([*RUNS, *(key for record in records for key in record)]))
    empty = f"no runs match {where}" if records else f"no runs in {runs_dir}"
    if sort is not None and records:
        records = _sorted(records, sort, columns)
    if where is not None:
        records = select(records, where)
    table = pd.DataFrame(
        [[record.get(name) for name in columns] for record in records],
        columns=columns,
        dtype=object,
    )
    if table["val_accuracy"].isna().all():
        table = table.drop(columns="val_accuracy")
    table.attrs["empty"] = empty
    return table


def run_record(path: Path) -> dict[str, Any]:
    """All that is known of one run: its row, the epochs it was to take, when it began, its configuration."""
    files = read_run(path)
    config = flatten(files.config)
    known = {"planned_epochs": config.get("epochs"), "started": files.status.get("started")}
    row = run_row(files) | standing(path, files) | known
    return row | {key: value for key, value in config.items() if key not in row}


def to_text(table: pd.DataFrame) -> str:
    """The runs as an aligned table of at most 100 columns, and how many ended how."""
    if table.empty:
        return str(table.attrs.get("empty", "no runs"))
    records = _records(table)
    rows = [_shown(record) for record in records]
    columns = {
        name: [name, *(row[name] for row in rows)]
        for name in rows[0]
        if any(row[name] for row in rows)
    }
    shared = any(row["s/epoch"].endswith("*") for row in rows)
    note = ["* shared the machine with other runs: not to be compared"] if shared else []
    return "\n".join([*aligned(columns), "", *note, _summary(records)])


def to_json(table: pd.DataFrame) -> str:
    """The runs as a JSON list of objects with every column; null where a run has no value."""
    return json.dumps(
        [_plain(record) for record in _records(table)], indent=2, allow_nan=False, default=str
    )


def aligned(columns: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The lines of a table, words to the left and figures to the right; reasons get what is left of the width."""
    widths = {name: max(map(len, cells)) for name, cells in columns.items()}
    if "reason" in widths:
        others = sum(width + 2 for name, width in widths.items() if name != "reason")
        widths["reason"] = min(widths["reason"], max(WIDTH - others, LEAST))
    for cells in zip(*columns.values(), strict=True):
        fields = [
            f"{cut(cell, width):{'<' if name in WORDS else '>'}{width}}"
            for (name, width), cell in zip(widths.items(), cells, strict=True)
        ]
        yield "  ".join(fields).rstrip()


def cut(text: str, width: int) -> str:
    """The text, or as much of it as fits."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _sorted(
    records: Sequence[Mapping[str, Any]], sort: str, columns: Sequence[str]
) -> list[Mapping[str, Any]]:
    key = sort.removeprefix("-")
    if key not in columns:
        raise unknown("key", key, columns)
    known = [record for record in records if not is_missing(record.get(key))]
    missing = [record for record in records if is_missing(record.get(key))]
    return (
        sorted(known, key=lambda record: _rank(record[key]), reverse=sort.startswith("-")) + missing
    )


def _rank(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, before words by the alphabet."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (False, value, "") if is_number else (True, 0.0, text_of(value))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(key): value for key, value in record.items()} for record in table.to_dict("records")
    ]


def _shown(record: Mapping[str, Any]) -> dict[str, str]:
    """The cells of one run, empty where there is nothing to say."""
    shared = "*" if record["concurrent_runs"] > 1 else ""
    planned = as_text(record["planned_epochs"], "/{}")
    return {
        "run": record["run"],
        "status": record["status"],
        "epochs": f"{record['epochs']}{planned}",
        "accuracy": as_text(record["test_accuracy"], "{:.1%}"),
        "s/epoch": as_text(record["median_train_seconds"], "{:.1f}" + shared),
        "reason": " ".join(as_text(record["reason"], "{}").split())
        if record["status"] != "done"
        else "",
    }


def as_text(value: Any, form: str) -> str:
    """The value in this format; nothing where it is missing."""
    return "" if is_missing(value) else form.format(value)


def _summary(records: Sequence[Mapping[str, Any]]) -> str:
    """36 runs: 30 done, 4 failed, 2 diverged."""
    states = Counter(record["status"] for record in records)
    counts = ", ".join(
        f"{states[state]} {state}"
        for state in sorted(states, key=lambda s: (s != "done", -states[s], s))
    )
    return f"{len(records)} run{'s' * (len(records) != 1)}: {counts}"


def _plain(value: Any) -> Any:
    """A value that JSON has: null for what is no number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
