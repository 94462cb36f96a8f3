"""Seconds of an epoch of each run, from the rounds of a bench with the run's settings.

Epochs of runs are not compared: runs share a machine, and lie hours apart. `normbench
bench` takes the steps of all norms in turns. A run and a round have the same `cost_id` where a
step has the same cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import pandas as pd

from normbench.analysis.settings import PROCESSES, images_of
from normbench.errors import NormbenchError
from normbench.timing.rounds import FILE, MACHINE, shared_columns

# Seconds by race, round, and all costly settings but the norm's: two norms are compared at the
# same key only. A race is of one process.
Clock = dict[tuple[str, int, str], float]


def clock_of(rounds: pd.DataFrame, shared: list[str]) -> Clock:
    """The seconds of a step by round, from the rounds of a contestant.

    shared: `shared_columns` of the whole bench.
    """
    place = str(rounds[shared].iloc[0].to_dict())
    keys = zip(rounds["race"], rounds["round"], repeat(place), strict=False)
    return dict(zip(keys, rounds["seconds"], strict=True))


def united(clocks: Sequence[Clock]) -> Clock:
    """The rounds of all clocks, without rounds at equal settings: no clock counts more there."""
    number = Counter(key for clock in clocks for key in clock)
    rounds = [pair for clock in clocks for pair in clock.items()]
    return {key: seconds for key, seconds in rounds if number[key] == 1}


def num_processes(clock: Clock) -> int:
    """The number of processes that timed."""
    return len({race for race, _, _ in clock})


def epoch_clocks(
    rounds: pd.DataFrame,
    environments: Mapping[str, Mapping[str, Any]],
    configs: Mapping[str, Mapping[str, Any]],
) -> dict[str, Clock]:
    """The seconds of an epoch by round, for each run whose `cost_id` was timed.

    Raises NormbenchError if several machines timed the settings of a run.
    """
    if rounds.empty:
        return {}
    timed = dict(iter(rounds.groupby("cost_id", sort=False)))
    clocks = {}
    for run, environment in environments.items():
        of_run = timed.get(environment.get("cost_id", ""))
        images = images_of(configs.get(run, {}), environment)
        if of_run is not None and images is not None:
            _check_machine(of_run)
            # With a fraction for a partial last batch.
            config = configs[run]
            together = config["batch_size"] * config.get(PROCESSES, 1)
            steps = images[0] / (together * config["train.accumulate"])
            clock = clock_of(of_run, shared_columns(rounds))
            clocks[run] = {key: steps * seconds for key, seconds in clock.items()}
    return clocks


def _check_machine(rounds: pd.DataFrame) -> None:
    machines = rounds[[*MACHINE]].drop_duplicates().astype(str).agg(", ".join, axis=1)
    if len(machines) > 1:
        first = rounds.iloc[0]
        raise NormbenchError(
            f"{first['norm.name']} at batch {first['batch_size']} was timed on several machines "
            f"({'; '.join(machines)}): say by --bench which {FILE} counts"
        )
