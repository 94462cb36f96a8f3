"""Two runs side by side, where they differ: what `normbench runs diff` shows, and how it finds runs by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from normbench.analysis.listing import WIDTH, cut, run_record
from normbench.analysis.where import text_of
from normbench.config.schema import ADDED, flatten
from normbench.errors import NormbenchError
from normbench.runs.files import RunFiles, read_run, run_dirs

ENVIRONMENT = ("versions", "hardware", "git", "concurrent_runs")
NEAREST = 3
INDENT = 2
LEAST = 20  # columns that a value gets even where long names leave less
# By the last word of a figure's name: factor, decimals, unit, unit of a difference.
UNITS = {
    "accuracy": (100, 2, " %", " points"),
    "loss": (1, 4, "", ""),
    "seconds": (1, 2, " s", " s"),
}


class Row(NamedTuple):
    """One line of the comparison."""

    name: str
    first: str
    second: str
    difference: str = ""


def find_run(runs_dir: Path, name: str, *, whole: bool = False) -> Path:
    """The run directory that `name` means: a path, an id in `runs_dir`, its 12-digit hash, the first parts of one id.

    whole: an id must be whole, or given by its hash. Raises NormbenchError with the nearest names where none is meant,
    or more than one.
    """
    if name and (Path(name) / "config.yaml").is_file():
        return Path(name)
    paths = {path.name: path for path in run_dirs(runs_dir)}
    if name in paths:
        return paths[name]
    begins = [] if whole else [run for run in paths if name and run.startswith(f"{name}-")]
    meant = begins + [run for run in paths if name and run.endswith(f"-{name}")]
    if len(meant) == 1:
        return paths[meant[0]]
    if meant:
        raise NormbenchError(f"'{name}' is ambiguous, it means {len(meant)} runs: {_some(meant)}")
    near = difflib.get_close_matches(name, paths, n=NEAREST, cutoff=0.5)
    hint = f"did you mean {_some(near)}? " if near else ""
    runs = f"one of the {len(paths)} in {runs_dir} by its id{'' if whole else ', the beginning'} or the hash of it"
    raise NormbenchError(f"unknown run '{name}': {hint}name {runs}, or any run by its path")


def diff(first: Path, second: Path) -> str:
    """Two runs as text: the configuration where it differs, how they ended, the environment where it differs.

    `system` settings are left out: none is in a run's id, and those that can touch a number are in the environment.
    """
    records, files = (
        [run_record(path) for path in (first, second)],
        [read_run(path) for path in (first, second)],
    )
    sections: dict[str, Sequence[Row] | str] = {
        "config": _differing(*(_config(one) for one in files)),
        "result": [*_standing(*records), *_metrics(*files), *_seconds(*records)],
        "environment": _differing(*(_environment(one) for one in files)),
    }
    lines = [f"first   {first}", f"second  {second}", *_aligned(sections)]
    if _shared(*records):
        lines += ["", "Seconds are not compared: a run shared the machine."]
    return "\n".join(lines)


def _config(files: RunFiles) -> dict[str, Any]:
    config = flatten({key: value for key, value in files.config.items() if key != "system"})
    return config and {**ADDED, **config}


def _environment(files: RunFiles) -> dict[str, Any]:
    return flatten({key: files.environment[key] for key in ENVIRONMENT if key in files.environment})


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> Sequence[Row] | str:
    """A row for every key whose values differ, or that only one of them has; or what to say where there is none."""
    rows = [
        Row(key, _cell(first, key), _cell(second, key)) for key in dict.fromkeys([*first, *second])
    ]
    unlike = [row for row in rows if row.first != row.second]
    return unlike or ("the same" if rows else "not recorded")


def _cell(values: Mapping[str, Any], key: str) -> str:
    return text_of(values[key]) if key in values else "-"


def _standing(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Row]:
    """How the runs ended, why, and after how many epochs."""
    yield Row("status", first["status"], second["status"])
    if first["reason"] or second["reason"]:
        yield Row(
            "reason", *(" ".join(str(one["reason"] or "-").split()) for one in (first, second))
        )
    yield Row(
        "epochs", *(f"{one['epochs']}/{one['planned_epochs'] or '?'}" for one in (first, second))
    )


def _metrics(first: RunFiles, second: RunFiles) -> Iterator[Row]:
    """The last epoch's losses and accuracies."""
    last = [
        {name: column[-1].item() for name, column in one.metrics.items()} for one in (first, second)
    ]
    for key in dict.fromkeys([*last[0], *last[1]]):
        if key.endswith(("_loss", "_accuracy")):
            yield _figures(key, *(one.get(key) for one in last))


def _seconds(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Row]:
    """The median over the epochs; without a difference where other runs shared the machine."""
    row = _figures(
        "median_train_seconds", first["median_train_seconds"], second["median_train_seconds"]
    )
    yield row._replace(difference="") if _shared(first, second) else row


def _shared(*records: Mapping[str, Any]) -> bool:
    return any(record["concurrent_runs"] > 1 for record in records)


def _figures(name: str, first: float | None, second: float | None) -> Row:
    """Two figures, and what the second has more than the first."""
    scale, decimals, unit, unit_of_difference = UNITS[name.rpartition("_")[2]]
    one, other = (
        f"{scale * value:.{decimals}f}{unit}" if value is not None else "-"
        for value in (first, second)
    )
    if first is None or second is None:
        return Row(name, one, other)
    return Row(name, one, other, f"{scale * (second - first):+.{decimals}f}{unit_of_difference}")


def _aligned(sections: Mapping[str, Sequence[Row] | str]) -> Iterator[str]:
    """The lines of all sections, in the same columns; values are cut where they do not fit."""
    rows = [row for section in sections.values() if not isinstance(section, str) for row in section]
    names, differences = (max(len(row[column]) for row in rows) for column in (0, 3))
    longest = max(len(value) for row in rows for value in (row.first, row.second, "second"))
    values = min(longest, max((WIDTH - INDENT - names - differences - 6) // 2, LEAST))
    for title, section in sections.items():
        yield ""
        if isinstance(section, str):
            yield f"{title}: {section}"
            continue
        yield f"{title:{names + INDENT}}  {'first':{values}}  second"
        for row in section:
            fitted = [cut(value, values) for value in (row.first, row.second)]
            if fitted[0] == fitted[1] and row.first != row.second:
                fitted = [row.first, row.second]  # the difference is in what would be cut
            cells = "  ".join(f"{value:{values}}" for value in fitted)
            yield f"{'':{INDENT}}{row.name:{names}}  {cells}  {row.difference:>{differences}}".rstrip()


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NEAREST} more" if len(names) > NEAREST else ""
    return ", ".join(f"'{name}'" for name in names[:NEAREST]) + more
