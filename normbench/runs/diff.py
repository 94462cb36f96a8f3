"""Compares two runs side by side for `normbench runs diff`, and finds runs by name.

Only settings and parts of the environment with different values are shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from normbench.config.schema import flatten
from normbench.errors import NormbenchError
from normbench.runs.files import RunFiles, read_run, run_dirs
from normbench.runs.listing import WIDTH, cut, one_line, run_record
from normbench.runs.row import QUANTITIES, task_of
from normbench.runs.where import Record, text_of
from normbench.tasks.metric import Metric, metric_of

SECTIONS = ("versions", "hardware", "git", "concurrent_runs")  # compared parts of env.json
NEAREST = 3
INDENT = 2
LEAST_VALUE = 20  # columns of a value, even beside long names


class Row(NamedTuple):
    """A line of the comparison."""

    name: str
    first: str
    second: str
    difference: str = ""


def find_run(runs_dir: Path, name: str, *, whole: bool = False) -> Path:
    """The run directory meant by a name.

    name: a path, an id in `runs_dir`, the 12-digit hash of an id, or the first parts of an id.
    whole: the first parts of an id do not suffice.

    Raises NormbenchError with the nearest names where no run is meant, or several.
    """
    if name and (Path(name) / "config.yaml").is_file():
        return Path(name)
    paths = {path.name: path for path in run_dirs(runs_dir)}
    if name in paths:
        return paths[name]
    meant = _meant(name, paths, whole=whole)
    if len(meant) == 1:
        return paths[meant[0]]
    if meant:
        raise NormbenchError(f"'{name}' is ambiguous, it means {len(meant)} runs: {_some(meant)}")
    near = difflib.get_close_matches(name, paths, n=NEAREST, cutoff=0.5)
    hint = f"did you mean {_some(near)}? " if near else ""
    beginning = "" if whole else ", the beginning"
    raise NormbenchError(
        f"unknown run '{name}': {hint}name one of the {len(paths)} in {runs_dir} "
        f"by its id{beginning} or the hash of it, or any run by its path"
    )


def diff(first: Path, second: Path) -> str:
    """Two runs as text: different settings, how the runs ended, different environments.

    Settings of `system` are left out: no run id depends on `system`, and env.json has the parts
    with an effect on numbers.
    """
    files = read_run(first), read_run(second)
    records = run_record(first, files[0]), run_record(second, files[1])
    sections: dict[str, Sequence[Row] | str] = {
        "config": _differing(_settings(files[0]), _settings(files[1])),
        "result": [*_ending(*records), *_metrics(*files), _seconds(*records)],
        "environment": _differing(_environment(files[0]), _environment(files[1])),
    }
    lines = [f"first   {first}", f"second  {second}", *_aligned(sections)]
    if _is_shared(*records):
        lines += ["", "Seconds are not compared: a run shared the machine."]
    return "\n".join(lines)


def _meant(name: str, runs: Mapping[str, Path], *, whole: bool) -> list[str]:
    if not name:
        return []
    begins = [] if whole else [run for run in runs if run.startswith(f"{name}-")]
    return begins + [run for run in runs if run.endswith(f"-{name}")]


def _settings(files: RunFiles) -> dict[str, Any]:
    return flatten({key: value for key, value in files.config.items() if key != "system"})


def _environment(files: RunFiles) -> dict[str, Any]:
    known = files.environment
    return flatten({key: known[key] for key in SECTIONS if key in known})


def _differing(first: Record, second: Record) -> Sequence[Row] | str:
    """A row for every key with different values; a sentence where all are equal."""
    rows = []
    for key in dict.fromkeys([*first, *second]):
        rows.append(Row(key, _cell(first, key), _cell(second, key)))
    if not rows:
        return "not recorded"
    return [row for row in rows if row.first != row.second] or "the same"


def _cell(values: Record, key: str) -> str:
    return text_of(values[key]) if key in values else "-"


def _ending(first: Record, second: Record) -> Iterator[Row]:
    """How the runs ended, why, and after how many epochs."""
    yield Row("status", first["status"], second["status"])
    if first["reason"] or second["reason"]:
        reasons = [one_line(run["reason"]) or "-" for run in (first, second)]
        yield Row("reason", *reasons)
    epochs = [f"{run['epochs']}/{run['planned_epochs'] or '?'}" for run in (first, second)]
    yield Row("epochs", *epochs)


def _metrics(first: RunFiles, second: RunFiles) -> Iterator[Row]:
    """The last epoch's metrics of the tasks."""
    metrics = task_of(first.environment).metrics + task_of(second.environment).metrics
    for column in dict.fromkeys([*first.metrics, *second.metrics]):
        metric = metric_of(column, metrics)
        if metric is not None:
            last = [_last(run, column) for run in (first, second)]
            yield _figures(column, metric, *last)


def _last(files: RunFiles, column: str) -> float | None:
    return files.metrics[column][-1].item() if column in files.metrics else None


def _seconds(first: Record, second: Record) -> Row:
    """The median over epochs, without a difference if a run shared the machine."""
    name = "median_train_seconds"
    row = _figures(name, QUANTITIES["seconds"], first[name], second[name])
    return row._replace(difference="") if _is_shared(first, second) else row


def _is_shared(*records: Record) -> bool:
    return any(record["concurrent_runs"] > 1 for record in records)


def _figures(name: str, metric: Metric, first: float | None, second: float | None) -> Row:
    """Two figures, and the second minus the first."""
    finer = metric.finer()
    one, other = ["-" if value is None else finer.show(value) for value in (first, second)]
    if first is None or second is None:
        return Row(name, one, other)
    return Row(name, one, other, finer.show_difference(second - first))


def _aligned(sections: Mapping[str, Sequence[Row] | str]) -> Iterator[str]:
    """The lines of all sections, in the same columns; long values are cut."""
    rows = [row for section in sections.values() if not isinstance(section, str) for row in section]
    names = max(len(row.name) for row in rows)
    differences = max(len(row.difference) for row in rows)
    longest = max(len(value) for row in rows for value in (row.first, row.second, "second"))
    room = (WIDTH - INDENT - names - differences - 6) // 2
    values = min(longest, max(room, LEAST_VALUE))
    for title, section in sections.items():
        yield ""
        if isinstance(section, str):
            yield f"{title}: {section}"
            continue
        yield f"{title:{names + INDENT}}  {'first':{values}}  second"
        for row in section:
            first, second = cut(row.first, values), cut(row.second, values)
            if first == second and row.first != row.second:
                first, second = row.first, row.second  # the cut parts differ
            name = " " * INDENT + row.name.ljust(names)
            cells = [name, first.ljust(values), second.ljust(values)]
            yield "  ".join([*cells, row.difference.rjust(differences)]).rstrip()


def _some(names: Sequence[str]) -> str:
    told = ", ".join(f"'{name}'" for name in names[:NEAREST])
    if len(names) > NEAREST:
        told += f" and {len(names) - NEAREST} more"
    return told
