"""Runs in this process: the contract, and what Ctrl-C does to them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from contract import (
    LauncherContract,
    assert_as_executed_alone,
    environment,
    launched,
    planned,
    reason,
    states,
)
from misbehaviour import at_step

from normbench.config.schema import RunConfig
from normbench.sweeps.launchers import Launcher, launchers
from normbench.sweeps.launchers.launcher import Work, train

pytestmark = pytest.mark.timeout(600)


class TestInline(LauncherContract):
    def build(self, work: Work = train, *, restart: bool = False) -> Launcher:
        return launchers.build("inline", restart, work)


def test_ctrl_c_in_a_run_stops_it_and_starts_no_other_and_all_go_on_to_the_same_bits(
    tmp_path: Path,
) -> None:
    def work(config: RunConfig, restart: bool) -> None:
        with at_step(9 if config.seed == 1 else -1, lambda: os.kill(os.getpid(), signal.SIGINT)):
            train(config, restart)

    configs = planned(tmp_path / "runs")
    events = launched(launchers.build("inline", False, work), configs)
    assert [(event.kind, event.config.seed) for event in events] == [
        ("started", 0),
        ("ended", 0),
        ("started", 1),
        ("ended", 1),
    ]
    assert states(configs) == ["done", "interrupted", "new"]
    launched(launchers.build("inline"), configs)
    assert_as_executed_alone(configs, tmp_path / "alone")


def test_a_reason_is_one_line(tmp_path: Path) -> None:
    def work(config: RunConfig, restart: bool) -> None:
        raise RuntimeError("the work is broken\nand more")

    configs = planned(tmp_path / "runs", seed="0")
    launched(launchers.build("inline", False, work), configs)
    assert reason(configs[0]) == "RuntimeError: the work is broken"


def test_a_run_that_had_the_machine_to_itself_says_so(tmp_path: Path) -> None:
    configs = planned(tmp_path / "runs", seed="0", epochs="1")
    launched(launchers.build("inline"), configs)
    assert environment(configs[0])["concurrent_runs"] == 1
