"""Two hundred tiny runs in one sweep, of which one in twenty crashes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from contract import TINY
from misbehaviour import CrashingRarely, noted

from normbench.runs.rundir import read_status
from normbench.sweeps.carry_out import exit_code, run_plan, summary
from normbench.sweeps.launchers import launchers
from normbench.sweeps.plan import make_plan
from normbench.sweeps.sweep import Study

pytestmark = pytest.mark.timeout(1200)
CRASHED = [seed for seed in range(200) if seed % 20 == 7]


def test_every_one_of_200_runs_ends_in_a_recorded_state_none_twice_and_only_the_crashed_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = TINY | {"seed": "range(0,200)", "epochs": "1", "train.max_steps": "1"}
    study = Study("many", ()).with_overrides([f"{key}={value}" for key, value in settings.items()])
    plan = make_plan(study, {"system.runs_dir": str(tmp_path / "runs"), "system.threads": 1})
    launcher = launchers.build(
        "processes", False, CrashingRarely(str(tmp_path)), options={"jobs": 2}
    )

    start = time.monotonic()
    after = run_plan(plan, plan.open(), launcher, live=False)
    seconds = time.monotonic() - start

    states = {run.config.seed: run.state for run in after.runs}
    assert [seed for seed, state in states.items() if state == "failed"] == CRASHED
    assert [state for seed, state in states.items() if seed not in CRASHED] == ["done"] * 190
    assert sorted(map(int, noted(tmp_path, "calls"))) == list(range(200))
    told = {run.config.seed: str(read_status(run.config.run_path)["reason"]) for run in after.runs}
    assert all(("SIGKILL" if seed % 40 == 7 else "code 7") in told[seed] for seed in CRASHED)
    assert [config.seed for config in after.open(retry_failed=True)] == CRASHED
    assert after.open() == []
    assert exit_code(after) == 1
    assert list(summary(after, "again"))[-1] == "  retry with: again --retry-failed"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 200  # one per run, nothing else
    print(f"{seconds:.1f} s, {2 * seconds / 200:.2f} s a run")
