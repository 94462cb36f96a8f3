"""Two hundred tiny runs in a sweep; every twentieth dies, and of the others a tenth trains."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from kit.launchers import SeldomTraining, noted
from kit.tiny import tiny

from normbench.runs.state import read_status
from normbench.sweeps.carry_out import exit_code, run_plan, summary
from normbench.sweeps.launchers import launchers
from normbench.sweeps.plan import make_plan
from normbench.sweeps.sweep import Sweep

KILLED = range(7, 200, 40)
EXITED = range(27, 200, 40)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_each_of_200_runs_ends_in_a_recorded_state_none_twice_and_only_those_that_died_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny("seed=range(0,200)", "epochs=1", "train.max_steps=1")
    plan = make_plan(
        Sweep("many", ()).with_overrides(settings),
        {"system.runs_dir": str(tmp_path / "runs"), "system.threads": 1},
    )
    script = dict.fromkeys(KILLED, ("is killed", None)) | dict.fromkeys(
        EXITED, ("exits at once", None)
    )
    work = SeldomTraining(str(tmp_path), script)
    after = run_plan(
        plan, plan.open(), launchers.build("processes", False, work, options={"jobs": 2})
    )

    died = sorted([*KILLED, *EXITED])
    assert [run.config.seed for run in after.runs if run.state == "failed"] == died
    assert Counter(run.state for run in after.runs) == {"done": 20, "diverged": 170, "failed": 10}
    tries = Counter(noted(tmp_path, "tries"))
    assert tries == dict.fromkeys((run.config.run_id for run in after.runs), 1)
    for run in after.runs:
        if run.state == "failed":
            told = "SIGKILL" if run.config.seed in KILLED else "code 7"
            assert told in str(read_status(run.config.run_path)["reason"])
    assert [config.seed for config in after.open(retry_failed=True)] == died
    assert after.open() == []
    assert exit_code(after) == 1
    assert list(summary(after, "again"))[-1] == "  retry with: again --retry-failed"
    assert len(capsys.readouterr().out.splitlines()) == 200  # a line per run
