"""Runs from wherever they are: run directories, folders of them, or the files of a study; and those files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from normbench.analysis.frames import METRICS, RUNS, STEPS, Frames, is_setting, read_frames, with_settings
from normbench.analysis.runfiles import half_written, run_dirs
from normbench.analysis.where import select
from normbench.atomic import disk_errors, write_json, write_text
from normbench.errors import NormbenchError, RunFailure
from normbench.rundir import SCHEMA_VERSION

COMPARABLE = {"data": "data", "epochs": "epochs", "precision": "precision"}  # columns and what they are called
NEEDED = {*RUNS} - {"val_accuracy"}
TABLES = {"metrics.csv": METRICS, "steps.csv": STEPS}


def load_frames(paths: Sequence[Path], where: str | None = None) -> Frames:
    """The runs at `paths` for which `where` holds, each once; notes say which were left out, and why.

    A path is a run directory, a folder of them, a study's folder with its runs.csv, or that file. Raises NormbenchError
    where there is no run at all.
    """
    studies: dict[Path, Path] = {}
    directories: dict[str, Path] = {}
    for path in paths:
        if (file := path if path.name == "runs.csv" else path / "runs.csv").is_file():
            studies[file.resolve()] = file
        else:
            found = [path] if (path / "config.yaml").exists() else [*run_dirs(path), *half_written(path)]
            for run in found:
                directories.setdefault(run.resolve().name, run)
    every = [*map(_read_study, studies.values()), read_frames(directories.values())]
    parts = [part for part in every if not part.runs.empty]
    notes = [note for part in every for note in part.notes]
    if not parts:
        raise NormbenchError("; ".join([f"no runs in {', '.join(map(str, paths))}", *notes]))
    return _where(replace(_joined(parts), notes=tuple(notes)), where)


def check_comparable(runs: pd.DataFrame, apart: Sequence[str] = ()) -> None:
    """Raises NormbenchError where finished runs differ in data, epochs or precision and are not shown `apart`."""
    done = runs[runs["status"] == "done"]
    for column, name in COMPARABLE.items():
        if column not in apart and len(found := sorted(map(str, done[column].dropna().unique()))) > 1:
            raise NormbenchError(
                f"runs of different {name}: {', '.join(found)}; choose with --where {column}={found[0]}"
            )


def write_study(frames: Frames, folder: Path) -> None:
    """Writes runs.csv, metrics.csv, steps.csv, env.json and configs.json, from which `load_frames` gives the same."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("runs", frames.runs), ("metrics", frames.metrics), ("steps", frames.steps)):
        write_text(folder / f"{name}.csv", table.to_csv(index=False))
    write_json(folder / "env.json", frames.environments)
    write_json(folder / "configs.json", _packed(frames.configs))


def shared_settings(configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The settings that all runs have in common."""
    first, *others = configs.values() or [{}]
    return {key: value for key, value in first.items() if all(key in one and one[key] == value for one in others)}


def _packed(configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What all runs share once, and of each run the rest."""
    shared = shared_settings(configs)
    own = {run: {key: config[key] for key in config if key not in shared} for run, config in configs.items()}
    return {"schema_version": SCHEMA_VERSION, "shared": shared, "runs": own}


def _read_study(file: Path) -> Frames:
    try:
        names = pd.read_csv(file, nrows=0).columns
        if missing := NEEDED - {*names}:
            raise ValueError(f"no column {min(missing)}")
        runs = _read_runs(file, [name for name in names if is_setting(name) or name == "reason"])
        metrics, steps = (_table(file.with_name(name), list(columns)) for name, columns in TABLES.items())
        environments = _read_json(file.with_name("env.json"))
        configs = _read_json(file.with_name("configs.json"))
        if (version := configs.get("schema_version", SCHEMA_VERSION)) != SCHEMA_VERSION:
            raise ValueError(f"schema {version}, this normbench reads {SCHEMA_VERSION}")
        flat = {run: configs["shared"] | own for run, own in configs.get("runs", {}).items()}
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise RunFailure(f"'{file}' cannot be read: {str(error).splitlines()[0]}") from None
    return Frames(with_settings(runs, flat), metrics, steps, environments, flat)


def _read_runs(file: Path, texts: list[str]) -> pd.DataFrame:
    """The table of runs, where `nan` and `None` are words in the columns `texts` and nothing elsewhere."""
    names = pd.read_csv(file, nrows=0).columns
    missing = {name: ["", "nan"] for name in names if name not in texts}
    runs = pd.read_csv(file, dtype=dict.fromkeys(texts, str), keep_default_na=False, na_values=missing)
    return runs.assign(reason=runs["reason"].astype(object).where(runs["reason"] != "", None))


def _read_json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return content


def _table(file: Path, columns: list[str]) -> pd.DataFrame:
    return pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["run", "norm", *columns])


def _joined(parts: Sequence[Frames]) -> Frames:
    """One set of tables; a run that is in several of them is that of the first. Settings that vary are found anew."""
    if len(parts) == 1:
        return parts[0]
    if any(not part.configs for part in parts):
        raise NormbenchError("a runs.csv without its configs.json cannot be told apart from other runs: show it alone")
    seen: set[str] = set()
    unique = []
    for part in parts:
        unique.append(part.only(set(part.runs["run"]) - seen))
        seen |= set(part.runs["run"])
    configs = {run: config for part in unique for run, config in part.configs.items()}
    environments = {run: environment for part in unique for run, environment in part.environments.items()}
    runs, metrics, steps = (_stacked([getattr(part, name) for part in unique]) for name in ("runs", "metrics", "steps"))
    return Frames(with_settings(runs, configs), metrics, steps, environments, configs)


def _stacked(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([table for table in tables if not table.empty] or tables[:1], ignore_index=True)


def _where(frames: Frames, where: str | None) -> Frames:
    if where is None:
        return frames
    records = [{str(key): value for key, value in record.items()} for record in frames.runs.to_dict("records")]
    kept = {record["run"] for record in select(records, where)}
    if not kept:
        raise NormbenchError(f"no runs match {where}")
    return frames.only(kept)
