"""Studies read from run directories or from the files of a study, and written to those files."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from normbench.analysis.settings import is_setting, study_settings, with_settings
from normbench.analysis.study import Study
from normbench.atomic import disk_errors, write_json, write_text
from normbench.config.schema import flatten
from normbench.errors import NormbenchError, RunFailure
from normbench.runs.files import (
    Columns,
    RunFiles,
    half_written,
    known_schema,
    read_run,
    read_steps,
    run_dirs,
    standing,
)
from normbench.runs.row import KEYS, row_columns, run_row, task_of
from normbench.runs.rundir import SCHEMA_VERSION
from normbench.runs.where import select
from normbench.tasks.metric import SPLITS, TaskRecord
from normbench.timing.rounds import FILE, read_bench, together, write_rounds

# Finished runs must agree in these, or their figures say nothing about norms.
COMPARABLE = ("task", "data", "epochs", "precision")
NUMBERS = ("batch_size", "seed", "lr", "epochs", "epoch", "step", "loss")
COUNTS = ("num_test", "threads")  # unknown of a run that failed before it knew its environment
METRICS = ("epoch", "steps", "train_seconds")
STEPS = ("step", "epoch", "loss", "lr")


def load_study(
    paths: Sequence[Path], where: Sequence[str] = (), bench: Path | None = None
) -> Study:
    """The runs at `paths` for which every condition of `where` holds, each run once.

    paths: run directories, folders of them, folders with a study's runs.csv, or that file.
    bench: the file with their times; by default each bench.csv in a folder of `paths`.

    Raises NormbenchError where a path holds no run, and where no run is left.
    """
    files: dict[Path, Path] = {}
    directories: dict[str, Path] = {}
    for path in paths:
        file = path if path.name == "runs.csv" else path / "runs.csv"
        if file.is_file():
            files[file.resolve()] = file
        else:
            for run in _directories(path):
                directories.setdefault(run.resolve().name, run)
    studies = [_read_files(file) for file in files.values()]
    studies.append(read_runs(directories.values()))
    notes = [note for study in studies for note in study.notes]
    filled = [study for study in studies if not study.runs.empty]
    if not filled:
        raise NormbenchError("; ".join([f"no runs in {', '.join(map(str, paths))}", *notes]))
    study = replace(_joined(filled), notes=tuple(notes))
    rounds = read_bench(bench) if bench else benches(paths)
    return _select(with_bench(study, rounds), where)


def read_runs(paths: Iterable[Path], refused: Iterable[RunFiles] = ()) -> Study:
    """Reads run directories, in the order given; a run with a damaged file becomes a note.

    refused: runs without a directory, which follow as rows of the table of runs.
    """
    files, steps, rows, notes = [], [], [], []
    for path in paths:
        run, columns = read_run(path), read_steps(path)
        if run.damaged or columns is None:
            name, damage = next(iter(run.damaged.items()), ("steps.csv", "is damaged"))
            notes.append(f"left out: {path}: {name} {damage}")
        else:
            files.append(run)
            steps.append(columns)
            rows.append(run_row(run) | standing(path, run))
    for run in refused:
        files.append(run)
        rows.append(run_row(run))
    configs = {run.run: study_settings(flatten(run.config)) for run in files}
    tasks = [task_of(run.environment) for run in files]
    runs = pd.DataFrame(rows, columns=row_columns(tasks))
    return Study(
        _tidy(with_settings(runs, configs)),
        _long(rows, [run.metrics for run in files], _metric_columns(tasks)),
        _long(rows, steps, STEPS),
        {run.run: run.environment for run in files if run.environment},
        configs,
        tuple(notes),
    )


def with_bench(study: Study, rounds: pd.DataFrame) -> Study:
    """The study with the rounds that time its runs.

    Raises NormbenchError where several machines timed the settings of one run.
    """
    timed = replace(study, bench=rounds)
    _ = timed.clocks  # raises here, and not in the middle of a report
    return timed


def benches(paths: Sequence[Path]) -> pd.DataFrame:
    """The rounds in each bench.csv in these folders, or beside these files."""
    folders = dict.fromkeys(path if path.is_dir() else path.parent for path in paths)
    found = [read_bench(folder) for folder in folders if (folder / FILE).is_file()]
    return together(found) if found else pd.DataFrame()


def check_comparable(study: Study, apart: Sequence[str] = ()) -> None:
    """Raises NormbenchError where finished runs differ in COMPARABLE and are not shown apart."""
    done = study.done.runs
    for column in COMPARABLE:
        found = sorted(map(str, done[column].dropna().unique()))
        if len(found) > 1 and column not in apart:
            raise NormbenchError(
                f"runs of different {column}: {', '.join(found)}; "
                f"choose with --where {column}={found[0]}"
            )


def write_study(study: Study, folder: Path) -> None:
    """Writes the files of a study, from which `load_study` reads an equal one.

    These are runs.csv, metrics.csv, steps.csv, env.json, configs.json, and bench.csv if timed.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    tables = {"runs": study.runs, "metrics": study.metrics, "steps": study.steps}
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False))
    if not study.bench.empty:
        write_rounds(study.bench, folder / FILE)
    write_json(folder / "env.json", study.environments)
    write_json(folder / "configs.json", _packed(study))


def common_settings(configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The settings that all runs have in common."""
    first, *others = configs.values() or [{}]
    common = {}
    for key, value in first.items():
        if all(key in config and config[key] == value for config in others):
            common[key] = value
    return common


def check_folder(folder: Path) -> None:
    """Raises NormbenchError where a study cannot be written to `folder`, or would hide its runs."""
    if folder.exists() and not folder.is_dir():
        raise NormbenchError(f"--output: '{folder}' is not a folder")
    if run_dirs(folder):
        raise NormbenchError(
            f"--output: '{folder}' holds run directories, "
            "which its runs.csv would hide: name another"
        )


def check_keeps(folder: Path, runs: Collection[str]) -> None:
    """Raises NormbenchError where the study in `folder` has a run that is not among `runs`."""
    file = folder / "runs.csv"
    if file.exists() and {*_read(file, _read_table)["run"]} - {*runs}:
        raise NormbenchError(
            f"--output: '{folder}' holds runs that are not in this report: name another folder"
        )


def _directories(path: Path) -> list[Path]:
    """The run directories at a path. Raises NormbenchError for none."""
    if (path / "config.yaml").exists():
        return [path]
    found = [*run_dirs(path), *half_written(path)]
    if not found:
        raise NormbenchError(f"no runs in {path}")
    return found


def _select(study: Study, where: Sequence[str]) -> Study:
    if not where:
        return study
    records = []
    for row in study.runs.to_dict("records"):
        # The table has settings as text, and only those that vary; the configuration has them all.
        config = study.configs.get(row["run"], {})
        known = {key: value for key, value in row.items() if key not in config or key in NUMBERS}
        records.append(config | {str(key): value for key, value in known.items()})
    kept = {record["run"] for record in select(records, where)}
    if not kept:
        raise NormbenchError(f"no runs match {' '.join(where)}")
    return study.only(kept)


def _packed(study: Study) -> dict[str, Any]:
    """The content of configs.json: common settings once, and of each run the rest."""
    common = common_settings(study.configs)
    own = {}
    for run, config in study.configs.items():
        own[run] = {key: config[key] for key in config if key not in common}
    version = {"schema_version": SCHEMA_VERSION}
    return version | {"shared": common, "runs": own, "left_out": list(study.notes)}


def _read_files(file: Path) -> Study:
    """The study of a runs.csv and the files beside it. Raises RunFailure for a damaged file."""
    environments = _read(file.with_name("env.json"), _read_json, {})
    configs = _read(file.with_name("configs.json"), _read_json, {})
    tasks = _read(file, lambda _: [task_of(one) for one in environments.values()])
    runs = _read(file, lambda path: _read_runs(path, row_columns(tasks)))
    metrics = _read(
        file.with_name("metrics.csv"), lambda path: _read_rows(path, _metric_columns(tasks))
    )
    steps = _read(file.with_name("steps.csv"), lambda path: _read_rows(path, STEPS))
    if (runs["status"] == "done").any() and metrics.empty:
        raise RunFailure(
            f"'{file.with_name('metrics.csv')}' cannot be read: it has no rows, and runs are done"
        )
    settings = _read(file.with_name("configs.json"), lambda _: _unpacked(configs))
    notes = tuple(configs.get("left_out", ()))
    return Study(
        _tidy(with_settings(runs, settings)), metrics, steps, environments, settings, notes
    )


def _read(file: Path, parse: Callable[[Path], Any], absent: Any = None) -> Any:
    """What `parse` makes of a file; `absent`, if given, where there is none.

    Raises RunFailure with the file's name where it cannot be read.
    """
    if absent is not None and not file.exists():
        return absent
    try:
        return parse(file)
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise RunFailure(f"'{file}' cannot be read: {str(error).splitlines()[0]}") from None


def _read_runs(file: Path, needed: Collection[str]) -> pd.DataFrame:
    """The table of runs. Raises ValueError for a missing column, and a run without its status."""
    runs = _read_table(file, [name for name in needed if not name.startswith("val_")])
    if runs["status"].isna().any():
        raise ValueError("a run without its status")
    reasons = runs["reason"].astype(object)
    return runs.assign(reason=reasons.where(reasons != "", None))


def _read_rows(file: Path, needed: Sequence[str]) -> pd.DataFrame:
    """A long table; an empty one where there is no file, since no run may have a row."""
    if not file.exists():
        return pd.DataFrame(columns=[*KEYS, *needed])
    return _read_table(file, ["run", *needed])


def _read_table(file: Path, needed: Collection[str] = ()) -> pd.DataFrame:
    """A CSV file of a study. Raises ValueError for a cut file, and for a word among figures."""
    # Only a copy that broke off lacks its last newline.
    if not file.read_bytes().endswith(b"\n"):
        raise ValueError("it ends within a row")
    names = list(pd.read_csv(file, nrows=0).columns)
    missing = {*needed} - {*names}
    if missing:
        raise ValueError(f"no column {min(missing)}")
    # `nan` and `None` are words in settings and reasons, and missing values elsewhere.
    texts = [name for name in names if is_setting(name) or name == "reason"]
    blanks = {name: ["", "nan"] for name in names if name not in texts}
    table = pd.read_csv(
        file, dtype=dict.fromkeys(texts, str), keep_default_na=False, na_values=blanks
    )
    for name in table.columns:
        is_figure = name in NUMBERS or name.partition("_")[0] in SPLITS
        if is_figure and len(table) and not pd.api.types.is_numeric_dtype(table[name]):
            raise ValueError(f"{name} is not a number everywhere")
    return table


def _read_json(file: Path) -> dict[str, Any]:
    """A mapping of a schema that this normbench knows, in each of its parts too."""
    content = known_schema(json.loads(file.read_text()))
    for part in content.values():
        if isinstance(part, dict):
            known_schema(part)
    return content


def _unpacked(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of each run in configs.json, with the common ones."""
    return {run: content["shared"] | own for run, own in content.get("runs", {}).items()}


def _tidy(runs: pd.DataFrame) -> pd.DataFrame:
    """The table of runs without empty columns of held-out images, with counts that may be unknown."""
    held_out = [name for name in runs.columns if name.startswith("val_")]
    empty = [name for name in held_out if runs[name].isna().all()]
    incomplete = [name for name in COUNTS if runs[name].isna().any()]
    return runs.drop(columns=empty).astype(dict.fromkeys(incomplete, "Int64"))


def _metric_columns(tasks: Iterable[TaskRecord]) -> list[str]:
    """The columns of metrics.csv that runs of these tasks have."""
    figures: dict[str, None] = {}
    for task in tasks:
        for metric in task.metrics:
            figures |= {f"train_{metric.name}": None, f"test_{metric.name}": None}
    return [*METRICS, *figures]


def _joined(studies: Sequence[Study]) -> Study:
    """The runs of several studies; a run in several of them is taken from the first."""
    if len(studies) == 1:
        return studies[0]
    if any(not study.configs for study in studies):
        raise NormbenchError(
            "a runs.csv without its configs.json cannot be told apart from other runs: "
            "show it alone"
        )
    seen: set[str] = set()
    unique = []
    for study in studies:
        unique.append(study.only(set(study.runs["run"]) - seen))
        seen |= set(study.runs["run"])
    configs: dict[str, Any] = {}
    environments: dict[str, Any] = {}
    for study in unique:
        configs |= study.configs
        environments |= study.environments
    return Study(
        _tidy(with_settings(_stacked([study.runs for study in unique]), configs)),
        _stacked([study.metrics for study in unique]),
        _stacked([study.steps for study in unique]),
        environments,
        configs,
    )


def _stacked(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    filled = [table for table in tables if not table.empty]
    return pd.concat(filled or tables[:1], ignore_index=True)


def _long(
    rows: Sequence[dict[str, Any]], parts: Sequence[Columns], needed: Sequence[str]
) -> pd.DataFrame:
    """The rows of all runs below one another, with the keys of their run.

    rows, parts: the row of each run and its columns; there may be more rows than parts, since
    refused runs have no files. needed: the columns of the table where no run has a row.
    """
    filled = [(row, part) for row, part in zip(rows, parts, strict=False) if part]
    if not filled:
        return pd.DataFrame(columns=[*KEYS, *needed])
    lengths = [len(part["epoch"]) for _, part in filled]
    columns: dict[str, Any] = {}
    for key in KEYS:
        values = np.array([row[key] for row, _ in filled], dtype=object)
        columns[key] = np.repeat(values, lengths)
    for name in dict.fromkeys(name for _, part in filled for name in part):
        pieces = []
        for (_, part), length in zip(filled, lengths, strict=True):
            pieces.append(part[name] if name in part else np.full(length, np.nan))
        columns[name] = np.concatenate(pieces)
    return pd.DataFrame(columns).infer_objects()
