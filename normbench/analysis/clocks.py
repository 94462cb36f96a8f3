"""What `normbench bench` timed, and which of it is the cost of which run.

Runs do not time their own epochs for a comparison: they share a machine, hours apart. Steps taken in turns do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from normbench.analysis.frames import Clock, Frames
from normbench.analysis.provenance import commits, distinct
from normbench.analysis.runfiles import at
from normbench.analysis.stats import with_interval
from normbench.atomic import disk_errors, write_text
from normbench.config import COSTLY, cost_settings
from normbench.errors import NormbenchError, RunFailure

FILE = "bench.csv"
NUMBERS = ("round", "seconds", "compile_seconds", "peak_bytes", "saved_bytes", "state_bytes")
NEEDED = {"race", "image", "device", "threads", "torch", "commit", "dirty", "norm.name", "batch_size", *NUMBERS}
OF_OLD_RUNS = dict.fromkeys(("cifar10", "cifar10-jpeg", "synthetic"), (3, 32, 32))  # whose environment does not say


def read_bench(path: Path) -> pd.DataFrame:
    """The rounds in a bench.csv, or in a folder's. Raises NormbenchError for none, RunFailure for another file."""
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
        return table.assign(**numbers, dirty=table["dirty"] == "True")
    except (ValueError, OSError) as error:
        raise RunFailure(f"'{file}' cannot be read: {str(error).splitlines()[0]}") from None


def as_rounds(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows that a bench gives as a table, such as `read_bench` reads; settings that a norm lacks are empty."""
    table = pd.DataFrame(rows).fillna("")
    return table.astype(dict.fromkeys(columns_of_settings(table), str))


def write_rounds(rounds: pd.DataFrame, path: Path) -> None:
    """Writes the rounds as CSV, and the folder for them."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, rounds.to_csv(index=False))


def with_times(frames: Frames, places: Sequence[Path]) -> Frames:
    """The runs with the rounds that lie in these folders or beside these files, as far as there are any."""
    folders = dict.fromkeys(place if place.is_dir() else place.parent for place in places)
    found = [folder for folder in folders if (folder / FILE).is_file()]
    return with_rounds(frames, _together(map(read_bench, found))) if found else frames


def _together(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rounds of several files; a setting that one of them lacks is empty there, as it is within one."""
    table = pd.concat(tables, ignore_index=True)
    return table.assign(**{name: table[name].fillna("") for name in columns_of_settings(table)})


def with_rounds(frames: Frames, rounds: pd.DataFrame) -> Frames:
    """The runs with what their epochs take by these rounds, where any is of their settings."""
    timed = dict(_by_settings(rounds))
    clocks = {}
    for run, config in frames.configs.items():
        environment = frames.environments.get(run, {})
        seconds = timed.get(_settings(cost_settings(config), _image(environment)))
        if seconds is not None:
            steps = _images(config, environment) / (config["batch_size"] * config["train.accumulate"])
            clocks[run] = {place: steps * value for place, value in seconds.items()}
    return replace(frames, bench=rounds, clocks=clocks)


def clock_of(frames: Frames, runs: pd.DataFrame) -> Clock:
    """The seconds per epoch of these runs; none where they were not timed, or are of several costs."""
    timed = [run for run in runs["run"] if run in frames.clocks]
    kinds = {str(cost_settings(frames.configs[run])) for run in timed}
    return frames.clocks[timed[0]] if len(kinds) == 1 else {}


def time_note(frames: Frames) -> str:
    """What the times of a table rest on, or that there are none."""
    if not frames.clocks and not frames.bench.empty:
        return "Times are not known: none of these runs has settings that were timed. "
    if not frames.clocks:
        return "Times are not measured here: normbench bench does that. "
    rounds = frames.bench
    number = math.ceil(len(rounds) / rounds.groupby(["race", *columns_of_settings(rounds)]).ngroups)
    return (
        f"Time per epoch is a training step's median, without evaluation, times the steps; relative to bn: the median "
        f"of the rounds' ratios, not the ratio of medians, {with_interval(number)}; timed in turns, {number} rounds, "
        f"on {basis_of(rounds)}. "
    )


def basis_of(rounds: pd.DataFrame) -> str:
    """The machine and versions that did the rounds."""
    machines = rounds.groupby("device", sort=False)
    known = "; ".join(f"{device}, threads: {distinct(of_it, 'threads')}" for device, of_it in machines)
    return f"{known}, torch {distinct(rounds, 'torch')}, commit {commits(rounds)}"


def columns_of_settings(rounds: pd.DataFrame) -> list[str]:
    """The columns that tell contestants apart."""
    return [name for name in map(str, rounds.columns) if name.startswith(COSTLY) or name == "image"]


def _by_settings(rounds: pd.DataFrame) -> Any:
    for _, group in rounds.groupby(columns_of_settings(rounds), sort=False):
        first = group.iloc[0]
        settings = {name: first[name] for name in columns_of_settings(rounds) if first[name] != "" and name != "image"}
        places = zip(group["race"], group["round"], strict=True)
        yield _settings(settings, first["image"]), dict(zip(places, group["seconds"], strict=True))


def _settings(settings: Mapping[str, str], image: str) -> frozenset[tuple[str, str]]:
    return frozenset({**settings, "image": image}.items())


def _image(environment: Mapping[str, Any]) -> str:
    shape = at(environment, "data.image_shape") or OF_OLD_RUNS.get(at(environment, "data.name"), ())
    return "x".join(map(str, shape))


def _images(config: Mapping[str, Any], environment: Mapping[str, Any]) -> float:
    """How many images an epoch trains on."""
    number = config["data.limit_train"] or at(environment, "data.num_train")
    return float(number - round(number * config["data.val_fraction"]))
