"""What `normbench bench` timed: its rounds, the file they are kept in, and what is said of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from normbench.analysis.captions import commits, distinct
from normbench.atomic import disk_errors, write_text
from normbench.config.schema import COSTLY
from normbench.errors import NormbenchError, RunFailure

FILE = "bench.csv"
NUMBERS = ("round", "seconds", "compile_seconds", "peak_bytes", "saved_bytes", "state_bytes")
MACHINE = ("device", "threads", "torch")
SETTINGS = (
    "norm.name",
    "model.name",
    "batch_size",
    "optim.name",
    "train.accumulate",
    "data.augment",
)  # of every run
NEEDED = {"race", "image", *MACHINE, "commit", "dirty", *SETTINGS, *NUMBERS}
IMAGES = ("image", "classes")  # columns that say what images a step had
OLD_CLASSES = "10"  # of all images, before there was that column


def read_bench(path: Path) -> pd.DataFrame:
    """The rounds in a bench.csv, or in a folder's. Raises NormbenchError for none, RunFailure for a damaged file."""
    file = path / FILE if path.is_dir() else path
    if file.is_file() and file.suffix != ".csv":
        raise NormbenchError(f"'{file}' is no CSV file: name a {FILE} or its folder")
    if not file.exists():
        raise NormbenchError(f"no {FILE} in {path}: `normbench bench -o {path}` writes it")
    try:
        if not file.read_bytes().endswith(b"\n"):
            raise ValueError("it ends within a row")
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        if missing := NEEDED - {*table}:
            raise ValueError(f"no column {min(missing)}")
        numbers = {name: pd.to_numeric(table[name]) for name in NUMBERS}
        rounds = table.assign(
            **numbers, dirty=table["dirty"] == "True", classes=table.get("classes", OLD_CLASSES)
        )
        _check(rounds)
        return rounds
    except (ValueError, OSError) as error:
        raise RunFailure(f"'{file}' cannot be read: {str(error).splitlines()[0]}") from None


def _check(rounds: pd.DataFrame) -> None:
    """Raises ValueError for what no bench writes."""
    if rounds.isna().any(axis=None):
        raise ValueError("a row with an empty figure")
    if not rounds["seconds"].between(0, math.inf, inclusive="neither").all():
        raise ValueError("seconds of a step that are not above 0")
    if rounds.duplicated(["race", "round", *columns_of_settings(rounds)]).any():
        raise ValueError("a round of the same settings comes twice")


def as_rounds(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows that a bench gives as a table, such as `read_bench` reads; settings that a norm lacks are empty."""
    table = pd.DataFrame(rows).fillna("")
    return table.astype(dict.fromkeys(columns_of_settings(table), str))


def write_rounds(rounds: pd.DataFrame, path: Path) -> None:
    """Writes the rounds as CSV, and the folder for them."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, rounds.to_csv(index=False))


def together(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rounds of several files; a setting that one of them lacks is empty there, as it is within one."""
    table = pd.concat(tables, ignore_index=True)
    return table.assign(**{name: table[name].fillna("") for name in columns_of_settings(table)})


def basis_of(rounds: pd.DataFrame) -> str:
    """The machine and versions that did the rounds."""
    machines = rounds.groupby("device", sort=False)
    known = "; ".join(
        f"{device}, threads: {distinct(of_it, 'threads')}" for device, of_it in machines
    )
    return f"{known}, torch {distinct(rounds, 'torch')}, commit {commits(rounds)}"


def columns_of_settings(rounds: pd.DataFrame) -> list[str]:
    """The columns that tell contestants apart."""
    return [name for name in map(str, rounds.columns) if name.startswith(COSTLY) or name in IMAGES]


def in_words(numbers: Iterable[int]) -> str:
    """25; 3 or 25, where a bench was interrupted."""
    return " or ".join(map(str, sorted({*numbers})))
