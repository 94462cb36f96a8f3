"""Compares two runs side by side for `normbench runs diff`, and finds runs by name.

Only settings and parts of the environment with different values are shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from normbench.config.schema import flatten
from normbench.errors import NormbenchError
from normbench.runs.columns import QUANTITIES
from normbench.runs.files import RunFiles, is_run, read_run, run_dirs
from normbench.runs.listing import WIDTH, cut, one_line, run_record
from normbench.runs.records import task_of
from normbench.runs.where import Record, text_of
from normbench.tasks.metric import Metric, metric_of
from normbench.text import visible, visible_in

SECTIONS = ("versions", "hardware", "git", "concurrent_runs")  # compared parts of env.json
NEAREST = 3
LEAST_VALUE = 20  # columns of a value, even beside long names
Row = tuple[str, str, str, str]  # name, first, second, difference


def find_run(runs_dir: Path, name: str) -> Path:
    """The run directory meant by a name.

    name: a path, an id in `runs_dir`, the 12-digit hash of an id, or the beginning of either that
    no other run has. Whole parts of an id come first: `-b1` is batch size 1, whether or not there
    are runs of 16.

    Raises NormbenchError with the nearest names where no run is meant, or several.
    """
    if name and is_run(Path(name)):
        return Path(name)
    paths = {path.name: path for path in run_dirs(runs_dir)}
    if name in paths:
        return paths[name]
    meant = _meant(name, paths)
    if len(meant) == 1:
        return paths[meant[0]]
    if meant:
        raise NormbenchError(f"'{name}' is ambiguous, it means {len(meant)} runs: {_some(meant)}")
    near = difflib.get_close_matches(name, paths, n=NEAREST, cutoff=0.5)
    hint = f"did you mean {_some(near)}? " if near else ""
    raise NormbenchError(
        f"unknown run '{name}': {hint}name one of the {len(paths)} in {runs_dir} "
        "by its id or the hash of it, or the beginning of either, or any run by its path"
    )


def diff(first: Path, second: Path) -> str:
    """Two runs as text: different settings, how the runs ended, different environments.

    Settings of `system` are left out: no run id depends on `system`, and env.json has the parts
    with an effect on numbers.
    """
    files = read_run(first), read_run(second)
    records = run_record(first, files[0]), run_record(second, files[1])
    is_shared = any(record["concurrent_runs"] > 1 for record in records)
    settings, environments = [], []
    for run in files:
        settings.append({key: run.config[key] for key in run.config if key != "system"})
        known = [key for key in SECTIONS if key in run.environment]
        environments.append({key: run.environment[key] for key in known})
    seconds = [record["median_train_seconds"] for record in records]
    time = _figures("median_train_seconds", QUANTITIES["seconds"], *seconds)
    if is_shared:
        time = (*time[:3], "")
    sections: dict[str, Sequence[Row] | str] = {
        "config": _differing(*map(flatten, settings)),
        "result": [*_ending(*records), *_metrics(*files), time],
        "environment": _differing(*map(flatten, environments)),
    }
    paths = visible(f"first   {first}"), visible(f"second  {second}")
    lines = [*paths, *_aligned(visible_in(sections))]
    if is_shared:
        lines += ["", "Seconds are not compared: a run shared the machine."]
    return "\n".join(lines)


def _meant(name: str, runs: Iterable[str]) -> list[str]:
    """The runs that have the name as first parts or hash; without any, those that begin so."""
    if not name:
        return []
    known = [*runs]
    whole = [run for run in known if run.startswith(f"{name}-") or run.endswith(f"-{name}")]
    if whole:
        return whole
    return [run for run in known if run.startswith(name) or _hash_of(run).startswith(name)]


def _hash_of(run: str) -> str:
    return run.rpartition("-")[2]


def _differing(first: Record, second: Record) -> Sequence[Row] | str:
    """A row for every key with different values; a sentence where all are equal."""
    if not (first or second):
        return "not recorded"
    rows = []
    for key in dict.fromkeys([*first, *second]):
        one, other = (text_of(run[key]) if key in run else "-" for run in (first, second))
        if one != other:
            rows.append((key, one, other, ""))
    return rows or "the same"


def _ending(first: Record, second: Record) -> Iterator[Row]:
    yield "status", first["status"], second["status"], ""
    reasons = [one_line(run["reason"]) for run in (first, second)]
    if any(reasons):
        yield "reason", reasons[0] or "-", reasons[1] or "-", ""
    one, other = (f"{run['epochs']}/{run['planned_epochs'] or '?'}" for run in (first, second))
    yield "epochs", one, other, ""


def _metrics(first: RunFiles, second: RunFiles) -> Iterator[Row]:
    metrics = task_of(first.environment).metrics + task_of(second.environment).metrics
    for column in dict.fromkeys([*first.metrics, *second.metrics]):
        metric = metric_of(column, metrics)
        if metric is not None:
            values = [run.metrics.get(column, [None])[-1] for run in (first, second)]
            yield _figures(column, metric, *values)


def _figures(name: str, metric: Metric, first: float | None, second: float | None) -> Row:
    finer = metric.finer()
    one, other = ("-" if value is None else finer.show(value) for value in (first, second))
    if first is None or second is None:
        return name, one, other, ""
    return name, one, other, finer.show_difference(second - first)


def _aligned(sections: Mapping[str, Sequence[Row] | str]) -> Iterator[str]:
    """The lines of all sections, in the same columns; long values are cut."""
    rows = [row for section in sections.values() if not isinstance(section, str) for row in section]
    names, first_values, second_values, differences = (
        max(map(len, column)) for column in zip(*rows, strict=True)
    )
    room = max((WIDTH - names - differences - 8) // 2, LEAST_VALUE)
    values = min(max(first_values, second_values, len("second")), room)
    for title, section in sections.items():
        yield ""
        if isinstance(section, str):
            yield f"{title}: {section}"
            continue
        yield f"{title:{names + 2}}  {'first':{values}}  second"
        for name, first, second, difference in section:
            one, other = cut(first, values), cut(second, values)
            if one == other and first != second:
                one, other = first, second  # the cut parts differ
            shown = f"{one:{values}}  {other:{values}}  {difference:>{differences}}"
            yield f"  {name:{names}}  {shown}".rstrip()


def _some(names: Sequence[str]) -> str:
    told = ", ".join(f"'{name}'" for name in names[:NEAREST])
    if len(names) > NEAREST:
        told += f" and {len(names) - NEAREST} more"
    return told
