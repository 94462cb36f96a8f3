"""Which of the rounds of a bench are the cost of which run.

Runs do not time their own epochs for a comparison: they share a machine, hours apart. Steps taken in turns do not.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from normbench.analysis.frames import Clock, Frames
from normbench.analysis.stats import with_interval
from normbench.analysis.tables.table import BASELINE
from normbench.config.schema import cost_settings
from normbench.errors import NormbenchError
from normbench.runs.files import at
from normbench.timing.rounds import (
    FILE,
    MACHINE,
    OLD_CLASSES,
    basis_of,
    columns_of_settings,
    in_words,
    read_bench,
    together,
)

OF_OLD_RUNS = dict.fromkeys(
    ("cifar10", "cifar10-jpeg", "synthetic"), (3, 32, 32)
)  # whose environment does not say


def with_times(frames: Frames, places: Sequence[Path]) -> Frames:
    """The runs with the rounds that lie in these folders or beside these files, as far as there are any."""
    folders = dict.fromkeys(place if place.is_dir() else place.parent for place in places)
    found = [folder for folder in folders if (folder / FILE).is_file()]
    return with_rounds(frames, together(map(read_bench, found))) if found else frames


def with_rounds(frames: Frames, rounds: pd.DataFrame) -> Frames:
    """The runs with what their epochs take by these rounds, where any is of their settings.

    Raises NormbenchError where several machines timed the settings of one run.
    """
    names = columns_of_settings(rounds)
    timed = {
        _settings(group[names].iloc[0]): group for _, group in rounds.groupby(names, sort=False)
    }
    clocks = {}
    for run, config in frames.configs.items():
        environment = frames.environments.get(run, {})
        group = timed.get(frozenset({**cost_settings(config), **_images(environment)}.items()))
        if group is not None:
            _check_machine(group)
            steps = _num_images(config, environment) / (
                config["batch_size"] * config["train.accumulate"]
            )
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
    numbers = {len(clock) for clock in frames.clocks.values()}
    return (
        f"Time per epoch is a training step's median, without evaluation, times the steps; relative to bn: the median "
        f"of the rounds' ratios, not the ratio of medians, {with_interval(numbers)}; timed in turns, "
        f"{in_words(numbers)} rounds, on {basis_of(frames.bench)}. {_apart(frames)}"
    )


def _apart(frames: Frames) -> str:
    """Which norms were timed in another way than bn, as `runtime=fast` may have chosen, so that no ratio is given."""
    timed = {run: cost_settings(frames.configs[run]) for run in frames.clocks}
    of_bn = {
        _beside_norm(one): one["batch_size"]
        for one in timed.values()
        if one["norm.name"] == BASELINE
    }
    apart = {
        f"{one['norm.name']} at batch {one['batch_size']}": None
        for one in timed.values()
        if _beside_norm(one) not in of_bn and one["batch_size"] in of_bn.values()
    }
    return f"In other settings than bn, so not related to it: {', '.join(apart)}. " if apart else ""


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
    return str(
        sorted(
            (key, one) for key, one in cost_settings(config).items() if not key.startswith("norm.")
        )
    )


def _settings(of_a_round: pd.Series[Any]) -> frozenset[tuple[str, str]]:
    """What was timed: settings, and images."""
    return frozenset((str(name), value) for name, value in of_a_round.items() if value != "")


def _images(environment: Mapping[str, Any]) -> dict[str, str]:
    """Size and classes of a run's images, as the columns of a bench say them."""
    shape = at(environment, "data.image_shape") or OF_OLD_RUNS.get(at(environment, "data.name"), ())
    classes = at(environment, "data.classes")
    return {
        "image": "x".join(map(str, shape)),
        "classes": str(len(classes)) if classes else OLD_CLASSES,
    }


def _num_images(config: Mapping[str, Any], environment: Mapping[str, Any]) -> float:
    """How many images an epoch trains on."""
    number = config["data.limit_train"] or at(environment, "data.num_train")
    return float(number - round(number * config["data.val_fraction"]))
