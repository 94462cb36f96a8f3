"""The rounds of `normbench bench` as rows, and the file bench.csv.

A row is a round of a contestant: settings, images, machine, `cost_id`, and the measurements.
Settings with an equal `cost_id` have the same cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from normbench.atomic import disk_errors, require_file, write_text
from normbench.checksums import check_sum, record_sums
from normbench.errors import NormbenchError, RunFailure
from normbench.spreadsheet import to_csv, unquoted
from normbench.text import visible

FILE = "bench.csv"
NUMBERS = ("round", "seconds", "compile_seconds", "peak_bytes", "saved_bytes", "state_bytes")
MACHINE = ("device", "threads", "torch")
IMAGES = ("image", "outputs")
# The settings of every contestant; norm.num_groups and the like belong to some norms only.
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

    Raises NormbenchError for a missing file, RunFailure for a damaged file.
    """
    file = path / FILE if path.is_dir() else path
    if file.is_file() and file.suffix != ".csv":
        raise NormbenchError(f"'{file}' is no CSV file: name a {FILE} or its folder")
    if not file.exists():
        raise NormbenchError(f"no {FILE} in {path}: `normbench bench -o {path}` writes it")
    require_file(file)
    try:
        rounds = _parsed(file)
        _check(rounds)
    except (ValueError, OSError) as error:
        raise RunFailure(f"'{file}' cannot be read: {str(error).splitlines()[0]}") from None
    check_sum(file)
    return rounds


def as_rounds(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of a bench as a table like `read_bench`; "" for settings of other norms."""
    keys = dict.fromkeys(key for row in rows for key in row)
    names = setting_columns(keys)
    # As text from the start: a table would turn a norm's 4 groups into 4.0 beside a norm with none.
    texts = [{**row, **{name: visible(str(row.get(name, ""))) for name in names}} for row in rows]
    return pd.DataFrame(texts)


def write_rounds(rounds: pd.DataFrame, path: Path) -> None:
    """Writes the rounds as CSV, and makes the folder."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, to_csv(rounds))
    record_sums(path.parent, [path.name])


def together(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rounds of several files; "" for settings missing in a file."""
    table = pd.concat(tables, ignore_index=True)
    return table.assign(**{name: table[name].fillna("") for name in setting_columns(table)})


def setting_columns(columns: Iterable[object]) -> list[str]:
    """The columns in which contestants differ: dotted settings, batch size, images."""
    names = [str(name) for name in columns]
    return [name for name in names if "." in name or name in ("batch_size", *IMAGES)]


def shared_columns(rounds: pd.DataFrame) -> list[str]:
    """The settings but the norm's own: contestants with equal values are compared."""
    return [name for name in setting_columns(rounds) if not name.startswith("norm.")]


def _parsed(file: Path) -> pd.DataFrame:
    # Only an interrupted copy lacks the last newline.
    if not file.read_bytes().endswith(b"\n"):
        raise ValueError("it ends within a row")
    table = unquoted(pd.read_csv(file, dtype=str, keep_default_na=False))
    missing = NEEDED - {*table}
    if missing:
        raise ValueError(f"no column {min(missing)}")
    numbers = {name: pd.to_numeric(table[name]) for name in NUMBERS}
    return table.assign(**numbers, dirty=table["dirty"] == "True")


def _check(rounds: pd.DataFrame) -> None:
    if rounds.isna().any(axis=None):
        raise ValueError("a row with an empty figure")
    if not rounds["seconds"].between(0, math.inf, inclusive="neither").all():
        raise ValueError("seconds of a step that are not above 0")
    if rounds.duplicated(["race", "round", "cost_id"]).any():
        raise ValueError("a round of the same settings comes twice")
