"""Rounds with made-up seconds, as `normbench bench` would have timed the settings of runs that were made up too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from normbench.analysis.frames import Frames
from normbench.analysis.times import with_rounds
from normbench.config.schema import cost_settings
from normbench.timing.rounds import as_rounds

IMAGE = [3, 32, 32]
NUM_TRAIN = 50_000
# What the cost of a run depends on, and how many images its epoch has: as a run's config.yaml says it.
COSTS = {
    "train": {"accumulate": 1},
    "data": {"augment": "none", "limit_train": None, "val_fraction": 0.0},
}
MACHINE = {
    "device": "another processor",
    "threads": 1,
    "torch": "2.16.0",
    "python": "3.13.1",
    "commit": "fedcba9876543210",
    "dirty": False,
}
BYTES = {
    "compile_seconds": 0.0,
    "peak_bytes": 3 * 2**20,
    "saved_bytes": 2 * 2**20,
    "state_bytes": 2**20,
}
Seconds = Mapping[
    str | tuple[str, int], Sequence[float]
]  # of a step, by round: of a norm, or of it at a batch size


def some_seconds(*norms: str, rounds: int = 9) -> Seconds:
    """Of every norm, other ones in every round."""
    return {
        norm: np.random.default_rng(i).uniform(0.05, 0.15, rounds).tolist()
        for i, norm in enumerate(norms)
    }


def rows_of(
    config: Mapping[str, Any],
    seconds: Sequence[float],
    race: str = "",
    image: str = "3x32x32",
    **facts: Any,
) -> list[dict[str, Any]]:
    """The rows of a configuration with dotted keys, a round for each of these seconds; `facts` in place of ours."""
    race = race or f"2026-01-02T03:04:05+00:00 batch {config['batch_size']}"
    known = {**cost_settings(config), "image": image, "classes": 10, **MACHINE, **BYTES, **facts}
    return [
        {**known, "race": race, "round": number, "seconds": value}
        for number, value in enumerate(seconds)
    ]


def rounds_of(frames: Frames, seconds: Seconds) -> pd.DataFrame:
    """The rounds of every setting of these runs for which there are seconds, each timed once whatever its seeds."""
    timed = {}
    for config in frames.configs.values():
        norm, batch_size = config["norm.name"], config["batch_size"]
        found = seconds.get((norm, batch_size), seconds.get(norm))
        if found is not None:
            timed[frozenset(cost_settings(config).items())] = rows_of(config, found)
    return as_rounds([row for rows in timed.values() for row in rows])


def timed(frames: Frames, seconds: Seconds) -> Frames:
    """The runs with the times that follow from these seconds of a step."""
    return with_rounds(frames, rounds_of(frames, seconds))
