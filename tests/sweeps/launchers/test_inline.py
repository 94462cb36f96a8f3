"""Runs in this process: Ctrl-C, and a process to itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from kit.launchers import at_step, environment, launched, planned, states

from normbench.config.schema import RunConfig
from normbench.sweeps.launchers import launchers
from normbench.sweeps.launchers.launcher import train


def test_ctrl_c_in_a_run_stops_it_and_starts_no_other_and_all_go_on_to_the_same_bits(
    tmp_path: Path, assert_as_alone: Callable[..., None]
) -> None:
    def work(config: RunConfig, restart: bool) -> None:
        with at_step(9 if config.seed == 1 else -1, lambda: os.kill(os.getpid(), signal.SIGINT)):
            train(config, restart)

    configs = planned(tmp_path / "runs", "seed=0,1,2")
    events = launched(launchers.build("inline", False, work), configs)
    order = [("started", 0), ("ended", 0), ("started", 1), ("ended", 1)]
    assert [(event.kind, event.config.seed) for event in events] == order
    assert states(configs) == ["done", "interrupted", "new"]
    launched(launchers.build("inline"), configs)
    assert_as_alone(configs)
    assert environment(configs[0])["concurrent_runs"] == 1
