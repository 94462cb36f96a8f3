"""What is recorded of a run whose process has ended, where the run has not said so itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.launchers import planned
from kit.runs import leave_run

from normbench.config.schema import RunConfig
from normbench.runs.rundir import open_run
from normbench.runs.standing import standing
from normbench.runs.state import status_bytes
from normbench.sweeps.launchers.child import settle


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    (config,) = planned(tmp_path)
    return config


def test_a_run_that_left_nothing_has_failed(config: RunConfig) -> None:
    assert settle(config, None, "killed") is None
    stands = standing(config.run_path)
    assert (stands.state, stands.reason) == ("failed", "killed")


def test_a_run_emptied_by_a_restart_that_died_has_failed(config: RunConfig) -> None:
    before = status_bytes(leave_run(config))
    with open_run(config.run_path, restart=True):
        pass
    assert settle(config, before, "killed", restart=True) is None
    assert standing(config.run_path).state == "failed"


def test_an_old_result_is_no_result_of_a_restart(config: RunConfig) -> None:
    before = status_bytes(leave_run(config))
    assert settle(config, before, "killed", restart=True) == "killed"
    assert standing(config.run_path).state == "done", "and it is not lost"
    assert settle(config, before, "ended with code 0") is None, "it was reported, not trained"


def test_a_run_in_the_hands_of_another_process_is_left_alone(config: RunConfig) -> None:
    leave_run(config, "interrupted")
    before = status_bytes(config.run_path)
    with open_run(config.run_path):
        assert settle(config, before, "another process is training") is None
    assert standing(config.run_path).state == "interrupted"
