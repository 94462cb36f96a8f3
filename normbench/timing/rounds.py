"""Rounds that `normbench bench` timed, as rows, and their file bench.csv.

A row is one round of one contestant: its settings, the images, the machine, `cost_id`, and what
was measured. Contestants of one `cost_id` have the same cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from normbench.atomic import disk_errors, write_text
from normbench.errors import NormbenchError, RunFailure

FILE = "bench.csv"
NUMBERS = ("round", "seconds", "compile_seconds", "peak_bytes", "saved_bytes", "state_bytes")
MACHINE = ("device", "threads", "torch")
IMAGES = ("image", "outputs")
# Every contestant has these settings; others, as norm.num_groups, belong to some norms only.
SETTINGS = (
    "norm.name",
    "model.name",
    "batch_size",
    "optim.name",
    "train.accumulate",
    "data.augment",
)
NEEDED = {"cost_id", "race", *IMAGES, *MACHINE, "commit", "dirty", *SETTINGS, *NUMBERS}


def read_bench(path: Path) -> pd.DataFrame:
    """The rounds in a bench.csv, or in the bench.csv of a folder; settings are text.

    Raises NormbenchError where there is no such file, RunFailure for a damaged one.
    """
    file = path / FILE if path.is_dir() else path
    if file.is_file() and file.suffix != ".csv":
        raise NormbenchError(f"'{file}' is no CSV file: name a {FILE} or its folder")
    if not file.exists():
        raise NormbenchError(f"no {FILE} in {path}: `normbench bench -o {path}` writes it")
    try:
        rounds = _parsed(file)
        _check(rounds)
    except (ValueError, OSError) as error:
        raise RunFailure(f"'{file}' cannot be read: {str(error).splitlines()[0]}") from None
    return rounds


def as_rounds(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of a bench as the table that `read_bench` reads; a setting a norm lacks is ""."""
    # As objects: a column with gaps would otherwise turn num_groups=2 into 2.0.
    table = pd.DataFrame(rows, dtype=object)
    settings = setting_columns(table)
    table[settings] = table[settings].fillna("").astype(str)
    return table.infer_objects()


def write_rounds(rounds: pd.DataFrame, path: Path) -> None:
    """Writes the rounds as CSV, and makes the folder for it."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, rounds.to_csv(index=False))


def together(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rounds of several files; a setting that a file lacks is "" in its rows."""
    table = pd.concat(tables, ignore_index=True)
    return table.assign(**{name: table[name].fillna("") for name in setting_columns(table)})


def setting_columns(rounds: pd.DataFrame) -> list[str]:
    """The columns that tell contestants apart: dotted settings, batch size, images."""
    names = [str(name) for name in rounds.columns]
    return [name for name in names if "." in name or name in ("batch_size", *IMAGES)]


def shared_columns(rounds: pd.DataFrame) -> list[str]:
    """The settings but the norm's own: contestants are compared where they agree in these."""
    return [name for name in setting_columns(rounds) if not name.startswith("norm.")]


def _parsed(file: Path) -> pd.DataFrame:
    # Only a copy that broke off lacks its last newline.
    if not file.read_bytes().endswith(b"\n"):
        raise ValueError("it ends within a row")
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    missing = NEEDED - {*table}
    if missing:
        raise ValueError(f"no column {min(missing)}")
    numbers = {name: pd.to_numeric(table[name]) for name in NUMBERS}
    return table.assign(**numbers, dirty=table["dirty"] == "True")


def _check(rounds: pd.DataFrame) -> None:
    """Raises ValueError for rounds that no bench writes."""
    if rounds.isna().any(axis=None):
        raise ValueError("a row with an empty figure")
    if not rounds["seconds"].between(0, math.inf, inclusive="neither").all():
        raise ValueError("seconds of a step that are not above 0")
    if rounds.duplicated(["race", "round", "cost_id"]).any():
        raise ValueError("a round of the same settings comes twice")
