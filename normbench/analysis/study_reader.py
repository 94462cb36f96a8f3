"""Reads the files of a study, each checked against its checksum, its schema, and the others."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from normbench.analysis.design import Design, read_design
from normbench.analysis.settings import is_setting, with_settings
from normbench.analysis.study import Study
from normbench.analysis.study_checks import (
    Packed,
    Settings,
    check_agreement,
    check_correct,
    check_pictures,
    check_ranges,
)
from normbench.analysis.study_files import CORRECT, DESIGN, FILES, PICTURES
from normbench.atomic import require_file
from normbench.checksums import SUMS, check_sum, read_sums
from normbench.errors import NormbenchError, RunFailure
from normbench.replacement import finish_replacement
from normbench.runs.columns import LARGEST_COUNT, STEP_COLUMNS
from normbench.runs.records import (
    SCHEMA_VERSION,
    UnknownSchema,
    check_environment,
    check_record,
    check_text,
    task_of,
)
from normbench.runs.row import KEYS, row_columns
from normbench.spreadsheet import unquoted
from normbench.tasks.metric import SPLITS, TaskRecord
from normbench.text import visible_in

NUMBERS = ("batch_size", "seed", "lr", "epochs", "epoch", "step", "loss")
COUNTS = ("num_test", "threads")  # unknown for runs without an environment
# Text even where it reads as a number: torch 2.10, or the commit 12e4.
WORDS = ("run", "model", "norm", "status", "task", "data", "device", "torch", "commit", "precision")
METRICS = ("epoch", "steps", "train_seconds")
STATES = ("done", "diverged", "failed", "interrupted", "killed", "running", "new", "refused")


def study_in(folder: Path) -> Path | None:
    """The runs.csv of the study in a folder, after what a kill has left there; None without one."""
    finish_replacement(folder)
    file = folder / "runs.csv"
    return file if file.exists() else None


def read_study(file: Path) -> Study:
    """The study of a runs.csv and the files beside it.

    Raises RunFailure for a file that is damaged, or was changed after it was written.
    """
    finish_replacement(file.parent)
    environments = _read(file.with_name("env.json"), _read_environments, {})
    tasks = {task.name: task for task in map(task_of, environments.values())}
    settings, notes = _read(file.with_name("configs.json"), _read_configs, ({}, ()))
    runs = _read(file, partial(_read_runs, [*tasks.values()]))
    metrics = _read(file.with_name("metrics.csv"), partial(_read_metrics, [*tasks.values()]))
    steps = _read(file.with_name("steps.csv"), partial(_read_rows, STEP_COLUMNS))
    runs = tidy(with_settings(runs, settings))
    correct = _read(file.with_name(CORRECT), partial(_read_bytes, "correct"), {})
    pictures = _read(file.with_name(PICTURES), partial(_read_bytes, "picture"), {})
    design = _read(file.with_name(DESIGN), _read_design, None)
    study = Study(runs, metrics, steps, environments, settings, notes)
    study = replace(study, correct=correct, pictures=pictures, design=design)
    check_agreement(study, file)
    check_correct(study, file.with_name(CORRECT))
    check_pictures(study, file.with_name(PICTURES))
    return replace(study, notes=(*notes, *_unchecked(file.parent)))


def _unchecked(folder: Path) -> list[str]:
    """A note on the files of a study for which SHA256SUMS has no line."""
    sums = read_sums(folder)
    names = [name for name in FILES if (folder / name).exists() and name not in sums]
    if not names:
        return []
    unknown = "whether they were changed is not known"
    return [f"'{folder}': {', '.join(names)} are not in {SUMS}: {unknown}"]


def check_keeps(folder: Path, runs: Collection[str]) -> None:
    """Raises NormbenchError if the study in `folder` has other runs than `runs`."""
    file = study_in(folder)
    if file is not None and {*_read(file, partial(_read_table, needed=["run"]))["run"]} - {*runs}:
        raise NormbenchError(
            f"--output: '{folder}' holds runs that are not in this report: name another folder"
        )


def metric_columns(tasks: Iterable[TaskRecord]) -> list[str]:
    """The columns of metrics.csv for runs of the given tasks."""
    names = dict.fromkeys(metric.name for task in tasks for metric in task.metrics)
    return [*METRICS, *(f"{split}_{name}" for name in names for split in ("train", "test"))]


def tidy(runs: pd.DataFrame) -> pd.DataFrame:
    """The table without empty `val_` columns, and with integers for counts with gaps."""
    held_out = [name for name in runs.columns if name.startswith("val_")]
    empty = [name for name in held_out if runs[name].isna().all()]
    incomplete = [name for name in COUNTS if runs[name].isna().any()]
    return runs.drop(columns=empty).astype(dict.fromkeys(incomplete, "Int64"))


def _read(file: Path, parse: Callable[[Path], Any], absent: Any = ...) -> Any:
    """The result of `parse`, or `absent`, if given, for a missing file.

    Raises RunFailure with the file's name for a file that is damaged or was changed.
    """
    if absent is not ... and not file.exists():
        check_sum(file)
        return absent
    if file.exists():
        require_file(file)
    try:
        found = parse(file)
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = [*str(error).splitlines(), type(error).__name__][0]
        raise RunFailure(f"'{file}' cannot be read: {reason}") from None
    check_sum(file)
    return found


def _read_runs(tasks: Sequence[TaskRecord], file: Path) -> pd.DataFrame:
    needed = [name for name in row_columns(tasks) if not name.startswith("val_")]
    runs = _read_table(file, needed)
    if not set(runs["status"]) <= {*STATES}:
        raise ValueError("a run of a status that does not exist, or of none")
    if runs["run"].duplicated().any() or runs["run"].isna().any():
        raise ValueError("a run that comes twice, or has no id")
    done = runs[runs["status"] == "done"]
    if done[["norm", "batch_size", "seed"]].isna().any(axis=None):
        raise ValueError("a finished run without its norm, batch size or seed")
    check_ranges(done, tasks)
    for name in COUNTS:
        known = runs[name].dropna().to_numpy(float)
        if not ((known >= 1) & (known <= LARGEST_COUNT) & (known % 1 == 0)).all():
            raise ValueError(f"{name} is no whole number everywhere")
    reasons = runs["reason"].astype(object)
    return runs.assign(reason=reasons.where(reasons != "", None))


def _read_metrics(tasks: Sequence[TaskRecord], file: Path) -> pd.DataFrame:
    metrics = _read_rows(metric_columns(tasks), file)
    check_ranges(metrics, tasks)
    return metrics


def _read_rows(needed: Sequence[str], file: Path) -> pd.DataFrame:
    """A long table; empty without a file, since runs may have no rows."""
    if not file.exists():
        return pd.DataFrame(columns=[*KEYS, *needed])
    return _read_table(file, ["run", *needed])


def _read_table(file: Path, needed: Collection[str] = ()) -> pd.DataFrame:
    """A CSV file of a study. Raises ValueError for a cut file, and for a word among figures."""
    # Only an interrupted copy lacks the last newline.
    if not file.read_bytes().endswith(b"\n"):
        raise ValueError("it ends within a row")
    names = list(pd.read_csv(file, nrows=0).columns)
    missing = {*needed} - {*names}
    if missing:
        raise ValueError(f"no column {min(missing)}")
    # `nan` is a word in a text, and a missing value elsewhere.
    texts = [name for name in names if is_setting(name) or name == "reason"]
    blanks = {name: ["", "nan"] for name in names if name not in texts}
    blanks |= {name: [""] for name in names if name in WORDS}
    table = pd.read_csv(
        file, dtype=dict.fromkeys([*texts, *WORDS], str), keep_default_na=False, na_values=blanks
    )
    table = unquoted(table)
    for name in table.columns:
        is_figure = name in NUMBERS or name.partition("_")[0] in SPLITS
        if is_figure and len(table) and not pd.api.types.is_numeric_dtype(table[name]):
            raise ValueError(f"{name} is not a number everywhere")
    return table


def _read_environments(file: Path) -> dict[str, Any]:
    content = _read_object(file)
    for environment in content.values():
        check_environment(environment)
    return content


def _read_configs(file: Path) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    content = _read_object(file)
    if content.get("schema_version") != SCHEMA_VERSION:
        raise UnknownSchema(content.get("schema_version"))
    check_record(Packed, content)
    settings = {run: content["shared"] | own for run, own in content["runs"].items()}
    for own in settings.values():
        check_record(Settings, own)
    return settings, tuple(content["left_out"])


def _read_bytes(column: str, file: Path) -> dict[str, bytes]:
    """The bytes of runs, from a table that has them in base 64."""
    table = _read_table(file, ["run", column])
    if table["run"].duplicated().any():
        raise ValueError("a run that comes twice")
    bits = [b64decode(text, validate=True) for text in table[column]]
    return dict(zip(table["run"], bits, strict=True))


def _read_design(file: Path) -> Design:
    content = _read_object(file)
    if content.pop("schema_version", None) != SCHEMA_VERSION:
        raise UnknownSchema(content.get("schema_version"))
    return read_design(content)


def _read_object(file: Path) -> dict[str, Any]:
    content = visible_in(json.loads(file.read_text()))
    if not isinstance(content, dict):
        raise ValueError("it is no object")
    check_text(content)
    return content
