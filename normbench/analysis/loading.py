"""Runs from wherever they are: run directories, folders of them, or the files of a study; and those files."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from normbench.analysis.frames import (
    METRICS,
    RUNS,
    STEPS,
    Frames,
    is_setting,
    read_frames,
    with_settings,
)
from normbench.analysis.times import with_rounds, with_times
from normbench.analysis.where import select
from normbench.atomic import disk_errors, write_json, write_text
from normbench.errors import NormbenchError, RunFailure
from normbench.runs.files import half_written, known_schema, run_dirs
from normbench.runs.rundir import SCHEMA_VERSION
from normbench.timing.rounds import FILE, read_bench, write_rounds

COMPARABLE = ("data", "epochs", "precision")
NEEDED = {*RUNS} - {"val_accuracy"}
NUMBERS = {
    "batch_size",
    "seed",
    "lr",
    "epochs",
    "test_accuracy",
    "test_loss",
    "train_loss",
    "epoch",
    "step",
    "loss",
}
TABLES = {"metrics.csv": METRICS, "steps.csv": STEPS}


def load_frames(
    paths: Sequence[Path], where: str | None = None, bench: Path | None = None
) -> Frames:
    """The runs at `paths` for which `where` holds, each once; notes say which were left out, and why.

    bench: where their times are, if not in the bench.csv of a folder among `paths`.

    A path is a run directory, a folder of them, a study's folder with its runs.csv, or that file. Raises NormbenchError
    where there is no run in one of them, or all are left out.
    """
    studies: dict[Path, Path] = {}
    directories: dict[str, Path] = {}
    for path in paths:
        if (file := path if path.name == "runs.csv" else path / "runs.csv").is_file():
            studies[file.resolve()] = file
        else:
            found = (
                [path]
                if (path / "config.yaml").exists()
                else [*run_dirs(path), *half_written(path)]
            )
            if not found:
                raise NormbenchError(f"no runs in {path}")
            for run in found:
                directories.setdefault(run.resolve().name, run)
    every = [*map(_read_study, studies.values()), read_frames(directories.values())]
    parts = [part for part in every if not part.runs.empty]
    notes = [note for part in every for note in part.notes]
    if not parts:
        raise NormbenchError("; ".join([f"no runs in {', '.join(map(str, paths))}", *notes]))
    frames = replace(_joined(parts), notes=tuple(notes))
    frames = with_rounds(frames, read_bench(bench)) if bench else with_times(frames, paths)
    return _where(frames, where)


def check_comparable(runs: pd.DataFrame, apart: Sequence[str] = ()) -> None:
    """Raises NormbenchError where finished runs differ in data, epochs or precision and are not shown `apart`."""
    done = runs[runs["status"] == "done"]
    for column in COMPARABLE:
        if (
            column not in apart
            and len(found := sorted(map(str, done[column].dropna().unique()))) > 1
        ):
            raise NormbenchError(
                f"runs of different {column}: {', '.join(found)}; choose with --where {column}={found[0]}"
            )


def write_study(frames: Frames, folder: Path) -> None:
    """Writes runs.csv, metrics.csv, steps.csv, env.json and configs.json, from which `load_frames` gives the same."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, table in (
        ("runs", frames.runs),
        ("metrics", frames.metrics),
        ("steps", frames.steps),
    ):
        write_text(folder / f"{name}.csv", table.to_csv(index=False))
    if not frames.bench.empty:
        write_rounds(frames.bench, folder / FILE)
    write_json(folder / "env.json", frames.environments)
    write_json(folder / "configs.json", _packed(frames.configs) | {"left_out": list(frames.notes)})


def shared_settings(configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The settings that all runs have in common."""
    first, *others = configs.values() or [{}]
    return {
        key: value
        for key, value in first.items()
        if all(key in one and one[key] == value for one in others)
    }


def _packed(configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What all runs share once, and of each run the rest."""
    shared = shared_settings(configs)
    own = {
        run: {key: config[key] for key in config if key not in shared}
        for run, config in configs.items()
    }
    return {"schema_version": SCHEMA_VERSION, "shared": shared, "runs": own}


def check_folder(folder: Path) -> None:
    """Raises NormbenchError where a study cannot be written to `folder`, or would hide the runs that are there."""
    if folder.exists() and not folder.is_dir():
        raise NormbenchError(f"--output: '{folder}' is not a folder")
    if run_dirs(folder):
        raise NormbenchError(
            f"--output: '{folder}' holds run directories, which its runs.csv would hide: name another"
        )


def check_keeps(folder: Path, runs: Collection[str]) -> None:
    """Raises NormbenchError where the study in `folder` has a run that is not among these."""
    file = folder / "runs.csv"
    if file.exists() and {*_read(file, _read_runs)["run"]} - {*runs}:
        raise NormbenchError(
            f"--output: '{folder}' holds runs that are not in this report: name another folder"
        )


def _read_study(file: Path) -> Frames:
    """The files beside a runs.csv, each checked; raises RunFailure for the first that cannot be read."""
    runs = _read(file, _read_runs)
    metrics, steps = (
        _read(file.with_name(name), partial(_read_rows, names)) for name, names in TABLES.items()
    )
    environments = _read(file.with_name("env.json"), _read_json, {})
    configs = _read(file.with_name("configs.json"), _read_configs, {})
    if (runs["status"] == "done").any() and metrics.empty:
        raise RunFailure(
            f"'{file.with_name('metrics.csv')}' cannot be read: it has no rows, and runs are done"
        )
    settings, notes = configs.get("settings", {}), configs.get("left_out", ())
    return Frames(with_settings(runs, settings), metrics, steps, environments, settings, notes)


def _read(file: Path, parse: Callable[[Path], Any], absent: Any = None) -> Any:
    """What `parse` makes of the file, or `absent`; raises RunFailure with its name where it cannot be read."""
    try:
        return parse(file) if file.exists() or absent is None else absent
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise RunFailure(f"'{file}' cannot be read: {str(error).splitlines()[0]}") from None


def _read_runs(file: Path) -> pd.DataFrame:
    """The table of runs, where `nan` and `None` are words in settings and reasons and nothing elsewhere."""
    names = _columns(file, NEEDED)
    texts = [name for name in names if is_setting(name) or name == "reason"]
    missing = {name: ["", "nan"] for name in names if name not in texts}
    runs = pd.read_csv(
        file, dtype=dict.fromkeys(texts, str), keep_default_na=False, na_values=missing
    )
    if runs["status"].isna().any():
        raise ValueError("a run without its status")
    return _with_numbers(
        runs.assign(reason=runs["reason"].astype(object).where(runs["reason"] != "", None))
    )


def _read_rows(names: Collection[str], file: Path) -> pd.DataFrame:
    """A long table; an empty one where there is no file, as no run may have a row."""
    if not file.exists():
        return pd.DataFrame(columns=["run", "norm", *names])
    _columns(file, {"run", *names})
    return _with_numbers(pd.read_csv(file))


def _columns(file: Path, needed: Collection[str]) -> list[str]:
    """The columns of a CSV file. Raises ValueError where one of `needed` is missing, or the last row is cut."""
    if not file.read_bytes().endswith(b"\n"):
        raise ValueError("it ends within a row")
    names = list(pd.read_csv(file, nrows=0).columns)
    if missing := {*needed} - {*names}:
        raise ValueError(f"no column {min(missing)}")
    return names


def _with_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """The table; raises ValueError where one of its measured columns holds a word."""
    for name in sorted(NUMBERS & {*table}):
        if len(table) and not pd.api.types.is_numeric_dtype(table[name]):
            raise ValueError(f"{name} is not a number everywhere")
    return table


def _read_json(file: Path) -> dict[str, Any]:
    """A mapping of a schema that this normbench knows, and so those within it."""
    content = known_schema(json.loads(file.read_text()))
    for part in content.values():
        if isinstance(part, dict):
            known_schema(part)
    return content


def _read_configs(file: Path) -> dict[str, Any]:
    """Each run's settings, the shared ones put back, and the notes on what was left out."""
    content = _read_json(file)
    settings = {run: content["shared"] | own for run, own in content.get("runs", {}).items()}
    return {"settings": settings, "left_out": tuple(content.get("left_out", ()))}


def _joined(parts: Sequence[Frames]) -> Frames:
    """One set of tables; a run that is in several of them is that of the first. Settings that vary are found anew."""
    if len(parts) == 1:
        return parts[0]
    if any(not part.configs for part in parts):
        raise NormbenchError(
            "a runs.csv without its configs.json cannot be told apart from other runs: show it alone"
        )
    seen: set[str] = set()
    unique = []
    for part in parts:
        unique.append(part.only(set(part.runs["run"]) - seen))
        seen |= set(part.runs["run"])
    configs = {run: config for part in unique for run, config in part.configs.items()}
    environments = {
        run: environment for part in unique for run, environment in part.environments.items()
    }
    runs, metrics, steps = (
        _stacked([getattr(part, name) for part in unique]) for name in ("runs", "metrics", "steps")
    )
    return Frames(with_settings(runs, configs), metrics, steps, environments, configs)


def _stacked(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(
        [table for table in tables if not table.empty] or tables[:1], ignore_index=True
    )


def _where(frames: Frames, where: str | None) -> Frames:
    if where is None:
        return frames
    records = [
        {str(key): value for key, value in record.items()}
        for record in frames.runs.to_dict("records")
    ]
    kept = {record["run"] for record in select(records, where)}
    if not kept:
        raise NormbenchError(f"no runs match {where}")
    return frames.only(kept)
