"""What the files of a study must hold: types, ranges, and agreement with one another."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image
from pydantic import Field

from normbench.analysis.study import Study
from normbench.errors import RunFailure
from normbench.runs import correct
from normbench.runs.columns import check_range, quantity_of
from normbench.runs.records import Count, Record
from normbench.tasks.metric import TaskRecord

MOST_PIXELS = 2**24  # of a picture
COUNTED = ("epoch", "epochs", "steps", "step", "batch_size", "lr")


class Packed(Record):
    """configs.json: the settings shared by all runs, and those of each; notes on runs left out."""

    shared: dict[str, Any]
    runs: dict[str, dict[str, Any]]
    left_out: list[str]


class Settings(Record):
    """The settings of a run that are calculated with, as flat keys of configs.json."""

    norm: str = Field("", alias="norm.name")
    model: str = Field("", alias="model.name")
    batch_size: Count = 1
    seed: int = 0
    accumulate: Count = Field(1, alias="train.accumulate")
    limit_train: Count | None = Field(None, alias="data.limit_train")
    val_fraction: float = Field(0.0, alias="data.val_fraction", ge=0, lt=1)


def check_ranges(table: pd.DataFrame, tasks: Sequence[TaskRecord]) -> None:
    metrics = [metric for task in tasks for metric in task.metrics]
    for name in table.columns:
        metric = quantity_of(str(name), metrics)
        if metric is not None or name in COUNTED:
            check_range(str(name), table[name].dropna().to_numpy(float), metric)


def check_correct(study: Study, file: Path) -> None:
    """Raises RunFailure where correct.csv does not fit the runs and their figures."""
    done = study.done.runs.set_index("run")
    for run, bits in study.correct.items():
        if run not in done.index:
            raise RunFailure(f"'{file}' has a run that is not finished in runs.csv: {run}")
        number, share = done["num_test"][run], done[study.test_column][run]
        try:
            correct.check(bits, int(number), float(share))
        except (ValueError, TypeError) as error:
            raise RunFailure(f"'{file}' cannot be read: {run} {error}") from None


def check_pictures(study: Study, file: Path) -> None:
    """Raises RunFailure where pictures.csv has no picture of two rows, or a strange run."""
    done = {*study.done.runs["run"]}
    for run, png in study.pictures.items():
        if run not in done:
            raise RunFailure(f"'{file}' has a run that is not finished in runs.csv: {run}")
        try:
            with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
                is_fit = image.height % 2 == 0 and image.width * image.height <= MOST_PIXELS
        except OSError:
            is_fit = False
        if not is_fit:
            raise RunFailure(f"'{file}' cannot be read: the picture of {run} is damaged")


def check_agreement(study: Study, file: Path) -> None:
    """Raises RunFailure where the files of a study do not tell the same of a run."""
    runs, metrics = study.runs, study.metrics
    known = {*runs["run"]}
    named = {"env.json": study.environments, "configs.json": study.configs}
    for name, content in named.items():
        if strange := {*content} - known:
            raise RunFailure(
                f"'{file.with_name(name)}' has a run that is not in runs.csv: {min(strange)}"
            )
    last = metrics.drop_duplicates("run", keep="last").set_index("run")
    done = runs[runs["status"] == "done"].set_index("run")
    if missing := {*done.index} - {*last.index}:
        raise RunFailure(f"'{file.with_name('metrics.csv')}' has no row of {min(missing)}")
    columns = [str(name) for name in last if name in done]
    for name in [name for name in columns if name.startswith("test_")]:
        told = last[name].reindex(done.index)
        differs = (told != done[name]) & (told.notna() | done[name].notna())
        if differs.any():
            raise RunFailure(
                f"'{file}' and metrics.csv do not agree on {name} of {done.index[differs][0]}"
            )
