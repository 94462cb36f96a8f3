"""Runs from wherever they are: run directories, folders of them, or the runs.csv and metrics.csv of a study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from normbench.analysis.frames import METRICS, STEPS, Frames, read_frames, run_dirs
from normbench.analysis.where import select
from normbench.errors import NormbenchError, RunFailure

COMPARABLE = {"data": "data", "epochs": "epochs", "precision": "precision"}  # columns and what they are called


def load_frames(paths: Sequence[Path], where: str | None = None) -> tuple[Frames, list[str]]:
    """The runs at `paths` for which `where` holds, each once, and a note on every run that was left out as damaged.

    A path is a run directory, a folder of them, a study's folder with its runs.csv, or that file. Raises NormbenchError
    where there is no run at all.
    """
    parts, directories = [], []
    for path in paths:
        if (file := path if path.name == "runs.csv" else path / "runs.csv").is_file():
            parts.append(_from_csv(file))
        else:
            directories += [path] if (path / "config.yaml").exists() else run_dirs(path)
    damaged: list[Path] = []
    if not (found := read_frames(dict.fromkeys(directories), damaged=damaged)).runs.empty:
        parts.append(found)
    if not parts:
        raise NormbenchError(f"no runs in {', '.join(map(str, paths))}")
    notes = [f"left out: {file.parent}: {file.name} is damaged" for file in damaged]
    return _where(_joined(parts), where), notes


def check_comparable(runs: pd.DataFrame) -> None:
    """Raises NormbenchError where finished runs differ in data, epochs or precision, which no table may mix."""
    done = runs[runs["status"] == "done"]
    for column, name in COMPARABLE.items():
        if len(found := sorted(map(str, done[column].dropna().unique()))) > 1:
            raise NormbenchError(
                f"runs of different {name}: {', '.join(found)}; choose with --where {column}={found[0]}"
            )


def _from_csv(file: Path) -> Frames:
    try:
        runs = pd.read_csv(file)
        metrics, steps = (_table(file.with_name(name), list(columns)) for name, columns in _LONG.items())
        environment = file.with_name("env.json")
        environments = json.loads(environment.read_text()) if environment.exists() else {}
        if missing := {"run", "norm", "seed", "status", "test_accuracy"} - {*runs.columns}:
            raise ValueError(f"no column {min(missing)}")
    except (ValueError, OSError) as error:
        raise RunFailure(f"'{file}' cannot be read: {str(error).splitlines()[0]}") from None
    return Frames(runs, metrics, steps, environments)


_LONG = {"metrics.csv": METRICS, "steps.csv": STEPS}


def _table(file: Path, columns: list[str]) -> pd.DataFrame:
    return pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["run", "norm", *columns])


def _joined(parts: Sequence[Frames]) -> Frames:
    """One set of tables; a run that is in several of them counts once."""
    if len(parts) == 1:
        return parts[0]
    runs = pd.concat([part.runs for part in parts], ignore_index=True).drop_duplicates("run")
    metrics = pd.concat([part.metrics for part in parts], ignore_index=True).drop_duplicates(["run", "epoch"])
    steps = pd.concat([part.steps for part in parts], ignore_index=True).drop_duplicates(["run", "step"])
    return Frames(runs, metrics, steps, {run: env for part in parts for run, env in part.environments.items()})


def _where(frames: Frames, where: str | None) -> Frames:
    if where is None:
        return frames
    records = [{str(key): value for key, value in record.items()} for record in frames.runs.to_dict("records")]
    kept = {record["run"] for record in select(records, where)}
    if not kept:
        raise NormbenchError(f"no runs match {where}")
    tables = {name: getattr(frames, name) for name in ("runs", "metrics", "steps")}
    return replace(frames, **{name: table[table["run"].isin(kept)] for name, table in tables.items()})
