"""Reads a study from run directories, or from the files of studies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normbench.analysis.images import first_pictures
from normbench.analysis.joining import join
from normbench.analysis.settings import with_settings
from normbench.analysis.study import Study
from normbench.analysis.study_reader import NUMBERS, metric_columns, read_study, tidy
from normbench.atomic import disk_errors
from normbench.checksums import check_sum
from normbench.config.schema import flatten
from normbench.errors import NormbenchError
from normbench.replacement import finish_replacement
from normbench.runs.columns import STEP_COLUMNS, Columns
from normbench.runs.files import RunFiles, is_run, read_run, read_steps, run_dirs
from normbench.runs.records import task_of
from normbench.runs.row import KEYS, row_columns, run_row
from normbench.runs.settings import study_settings
from normbench.runs.standing import standing
from normbench.runs.where import select
from normbench.text import visible
from normbench.timing.rounds import FILE, read_bench, together

# Finished runs must agree in these columns for a comparison of norms.
COMPARABLE = ("task", "data", "epochs", "precision")


def load_study(
    paths: Sequence[Path], where: Sequence[str] = (), bench: Path | None = None
) -> Study:
    """The runs at `paths` under all conditions of `where`, each run once.

    paths: run directories, folders of run directories, and studies: a runs.csv or its folder.
    bench: the file with their times; by default each bench.csv in a folder of `paths`.

    Raises NormbenchError where a path holds no run, and where no run is left.
    """
    files: dict[Path, Path] = {}
    directories: dict[str, Path] = {}
    again: list[tuple[str, Study]] = []
    for path in paths:
        file = path if path.name == "runs.csv" else path / "runs.csv"
        finish_replacement(file.parent)
        with disk_errors(path, "read"):
            if file.is_file():
                files[file.resolve()] = file
                continue
            for run in _directories(path):
                name = run.resolve().name
                # A whole copy elsewhere is better than a damaged run.
                if name not in directories or not _is_shown(directories[name]):
                    directories[name] = run
                elif directories[name].resolve() != run.resolve() and _is_shown(run):
                    again.append((str(run), read_runs([run])))
    studies = [(str(file.parent), read_study(file)) for file in files.values()]
    places = ", ".join(dict.fromkeys(str(run.parent) for run in directories.values()))
    studies += [(places, read_runs(directories.values())), *again]
    notes = [note for _, study in studies for note in study.notes]
    filled = [(place, study) for place, study in studies if not study.runs.empty]
    if not filled:
        raise NormbenchError("; ".join([f"no runs in {', '.join(map(str, paths))}", *notes]))
    study = join(filled)
    lacking = [place for place, part in filled if part.design is None]
    if study.design is None and len(lacking) < len(filled):
        why = f"'{lacking[0]}' has no design" if lacking else "these are parts of several studies"
        notes.append(f"{why}: no comparison counts as decided beforehand")
    study = replace(study, notes=tuple(notes))
    rounds = read_bench(bench) if bench else benches(paths)
    return select_runs(with_bench(study, rounds), where)


def read_runs(paths: Iterable[Path], refused: Iterable[RunFiles] = ()) -> Study:
    """Reads run directories, in the order given; a run with a damaged file becomes a note.

    refused: runs without a directory, added as rows of the table of runs.
    """
    files, steps, rows, notes = [], [], [], []
    for path in paths:
        run = read_run(path)
        run = replace(run, run=visible(run.run))
        stands = standing(path, run)
        columns = read_steps(path) if stands.is_shown else {}
        if not stands.is_shown or columns is None:
            reason = stands.reason or "steps.csv is damaged"
            notes.append(visible(f"left out: {path}: {reason}"))
        else:
            files.append(run)
            steps.append(columns)
            rows.append(run_row(run) | {"status": stands.state, "reason": stands.reason})
    for run in refused:
        files.append(run)
        rows.append(run_row(run))
    configs = {run.run: study_settings(flatten(run.config)) for run in files}
    tasks = [task_of(run.environment) for run in files]
    runs = pd.DataFrame(rows, columns=row_columns(tasks))
    return Study(
        tidy(with_settings(runs, configs)),
        _long(rows, [run.metrics for run in files], metric_columns(tasks)),
        _long(rows, steps, STEP_COLUMNS),
        {run.run: run.environment for run in files if run.environment},
        configs,
        tuple(notes),
        correct={run.run: run.correct for run in files if run.correct is not None},
        pictures=first_pictures(files),
    )


def with_bench(study: Study, rounds: pd.DataFrame) -> Study:
    """The study with rounds of a bench.

    Raises NormbenchError if several machines timed the settings of a run.
    """
    timed = replace(study, bench=rounds)
    _ = timed.clocks  # raises here, and not in the middle of a report
    return timed


def benches(paths: Sequence[Path]) -> pd.DataFrame:
    """The rounds of every bench.csv in folders of `paths`, or beside files of `paths`."""
    folders = dict.fromkeys(path if path.is_dir() else path.parent for path in paths)
    found = []
    for folder in folders:
        if (folder / FILE).is_file():
            found.append(read_bench(folder))
        else:
            check_sum(folder / FILE)
    return together(found) if found else pd.DataFrame()


def check_comparable(study: Study, apart: Sequence[str] = ()) -> None:
    """Raises NormbenchError where finished runs differ in COMPARABLE and are not shown apart.

    Batch sizes may have epochs of their own: norms are compared within one.
    """
    done = study.done.runs
    for column in COMPARABLE:
        parts = [done]
        if column == "epochs":
            parts = [part for _, part in done.groupby("batch_size")]
        for part in parts:
            found = sorted(map(str, part[column].dropna().unique()))
            if len(found) > 1 and column not in apart:
                raise NormbenchError(
                    f"runs of different {column}: {', '.join(found)}; "
                    f"choose with --where {column}={found[0]}"
                )


def _directories(path: Path) -> list[Path]:
    if is_run(path):
        return [path]
    found = run_dirs(path)
    if not found:
        raise _no_runs(path)
    return found


def _no_runs(path: Path) -> NormbenchError:
    """The error for a path without runs: what is there, and what could be named instead."""
    told = f"no runs in {path}: "
    if not path.exists():
        return NormbenchError(f"{told}there is no such folder")
    if not path.is_dir():
        return NormbenchError(f"{told}it is a file; name a folder, or a study's runs.csv")
    studies = sorted(str(file.parent) for file in path.glob("*/runs.csv"))
    if studies:
        return NormbenchError(f"{told}it holds studies; name one or several: {', '.join(studies)}")
    if not any(path.iterdir()):
        return NormbenchError(f"{told}the folder is empty")
    return NormbenchError(f"{told}no folder of it has a run's config.yaml")


def _is_shown(path: Path) -> bool:
    return standing(path).is_shown


def select_runs(study: Study, where: Sequence[str]) -> Study:
    """The runs under all conditions. Raises NormbenchError where none is left."""
    if not where:
        return study
    kept = matching(study, where)
    if not kept:
        raise NormbenchError(f"no runs match {' '.join(where)}")
    return study.only(kept)


def matching(study: Study, where: Sequence[str]) -> set[str]:
    """The ids of the runs under all conditions.

    Raises NormbenchError for a condition that cannot be read, and for an unknown key.
    """
    records = [_record(study, row) for row in study.runs.to_dict("records")]
    return {record["run"] for record in select(records, where)}


def _record(study: Study, row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row with all settings of the run, typed: a row has varying settings only, as text."""
    typed = study.configs.get(row["run"], {})
    return {**row, **typed, **{name: row[name] for name in NUMBERS if name in row}}


def _long(
    rows: Sequence[dict[str, Any]], parts: Sequence[Columns], needed: Sequence[str]
) -> pd.DataFrame:
    """The rows of all runs below one another, with the keys of each run.

    rows, parts: the row of each run and its columns; refused runs come last and have no part.
    needed: the columns of the table where no run has a row.
    """
    filled = [(row, part) for row, part in zip(rows, parts, strict=False) if part]
    if not filled:
        return pd.DataFrame(columns=[*KEYS, *needed])
    lengths = [len(part["epoch"]) for _, part in filled]
    columns: dict[str, Any] = {}
    for key in KEYS:
        of_runs = pd.Series([row[key] for row, _ in filled])
        columns[key] = of_runs.repeat(lengths).reset_index(drop=True)
    # Thousands of tables, one for each run, would take most of the time of reading.
    for name in dict.fromkeys(name for _, part in filled for name in part):
        columns[name] = np.concatenate([_column(part, name) for _, part in filled])
    return pd.DataFrame(columns)


def _column(part: Columns, name: str) -> NDArray[Any]:
    """The column of a run, nan where the run does not have it."""
    return part[name] if name in part else np.full(len(part["epoch"]), np.nan)
