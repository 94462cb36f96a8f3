"""What `normbench bench` timed, and which of it is the cost of which run.

Runs do not time their own epochs for a comparison: they share a machine, hours apart. Steps taken in turns do not.
"""

from __future__ import annotations

import itertools
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
from normbench.analysis.tables.table import BASELINE
from normbench.atomic import disk_errors, write_text
from normbench.config import COSTLY, cost_settings
from normbench.errors import NormbenchError, RunFailure

FILE = "bench.csv"
NUMBERS = ("round", "seconds", "compile_seconds", "peak_bytes", "saved_bytes", "state_bytes")
MACHINE = ("device", "threads", "torch")
SETTINGS = ("norm.name", "model.name", "batch_size", "optim.name", "train.accumulate", "data.augment")  # of every run
NEEDED = {"race", "image", *MACHINE, "commit", "dirty", *SETTINGS, *NUMBERS}
IMAGES = ("image", "classes")  # columns that say what images a step had
OLD_CLASSES = "10"  # of all images, before there was that column
OF_OLD_RUNS = dict.fromkeys(("cifar10", "cifar10-jpeg", "synthetic"), (3, 32, 32))  # whose environment does not say


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
        rounds = table.assign(**numbers, dirty=table["dirty"] == "True", classes=table.get("classes", OLD_CLASSES))
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
    """The runs with what their epochs take by these rounds, where any is of their settings.

    Raises NormbenchError where several machines timed the settings of one run.
    """
    names = columns_of_settings(rounds)
    timed = {_settings(group[names].iloc[0]): group for _, group in rounds.groupby(names, sort=False)}
    clocks = {}
    for run, config in frames.configs.items():
        environment = frames.environments.get(run, {})
        group = timed.get(frozenset({**cost_settings(config), **_images(environment)}.items()))
        if group is not None:
            _check_machine(group)
            steps = _num_images(config, environment) / (config["batch_size"] * config["train.accumulate"])
            places = zip(group["race"], group["round"], itertools.repeat(_beside_norm(config)))
            clocks[run] = dict(zip(places, steps * group["seconds"], strict=True))
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
    numbers = sorted({len(clock) for clock in frames.clocks.values()})
    return (
        f"Time per epoch is a training step's median, without evaluation, times the steps; relative to bn: the median "
        f"of the rounds' ratios, not the ratio of medians, {with_interval(numbers[-1])}; timed in turns, "
        f"{' or '.join(map(str, numbers))} rounds, on {basis_of(frames.bench)}. {_apart(frames)}"
    )


def _apart(frames: Frames) -> str:
    """Which norms were timed in another way than bn, as `runtime=fast` may have chosen, so that no ratio is given."""
    timed = {run: cost_settings(frames.configs[run]) for run in frames.clocks}
    of_bn = [one for one in timed.values() if one["norm.name"] == BASELINE]
    ways = {_beside_norm(one) for one in of_bn}
    apart = {
        f"{one['norm.name']} at batch {one['batch_size']}": None
        for one in timed.values()
        if _beside_norm(one) not in ways and one["batch_size"] in {bn["batch_size"] for bn in of_bn}
    }
    return f"In other settings than bn, so not related to it: {', '.join(apart)}. " if apart else ""


def basis_of(rounds: pd.DataFrame) -> str:
    """The machine and versions that did the rounds."""
    machines = rounds.groupby("device", sort=False)
    known = "; ".join(f"{device}, threads: {distinct(of_it, 'threads')}" for device, of_it in machines)
    return f"{known}, torch {distinct(rounds, 'torch')}, commit {commits(rounds)}"


def columns_of_settings(rounds: pd.DataFrame) -> list[str]:
    """The columns that tell contestants apart."""
    return [name for name in map(str, rounds.columns) if name.startswith(COSTLY) or name in IMAGES]


def _check_machine(rounds: pd.DataFrame) -> None:
    """Raises NormbenchError where rounds of the same settings are of several machines or versions of torch."""
    machines = rounds[[*MACHINE]].drop_duplicates().astype(str).agg(", ".join, axis=1)
    if len(machines) > 1:
        raise NormbenchError(
            f"{rounds['norm.name'].iloc[0]} at batch {rounds['batch_size'].iloc[0]} was timed on several machines "
            f"({'; '.join(machines)}): say by --bench which {FILE} counts"
        )


def _beside_norm(config: Mapping[str, Any]) -> str:
    """The settings that a step's cost depends on, but the norm's own: at the same ones, two norms are compared."""
    return str(sorted((key, one) for key, one in cost_settings(config).items() if not key.startswith("norm.")))


def _settings(of_a_round: pd.Series[Any]) -> frozenset[tuple[str, str]]:
    """What was timed: settings, and images."""
    return frozenset((str(name), value) for name, value in of_a_round.items() if value != "")


def _images(environment: Mapping[str, Any]) -> dict[str, str]:
    """Size and classes of a run's images, as the columns IMAGES say them."""
    shape = at(environment, "data.image_shape") or OF_OLD_RUNS.get(at(environment, "data.name"), ())
    classes = at(environment, "data.classes")
    return {"image": "x".join(map(str, shape)), "classes": str(len(classes)) if classes else OLD_CLASSES}


def _num_images(config: Mapping[str, Any], environment: Mapping[str, Any]) -> float:
    """How many images an epoch trains on."""
    number = config["data.limit_train"] or at(environment, "data.num_train")
    return float(number - round(number * config["data.val_fraction"]))
