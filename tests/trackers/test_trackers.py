"""Records of runs in TensorBoard, MLflow and Weights & Biases, read back from their own files."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.records import READERS, Failing, Recorded, failing, rows_of
from kit.tiny import tiny
from kit.training import run_in

from normbench.config.compose import compose
from normbench.config.schema import flatten, from_yaml
from normbench.errors import NormbenchError
from normbench.runs.files import read_run, read_steps
from normbench.runs.settings import study_settings
from normbench.trackers.tracker import require_package, subject_of, tell_rows, trackers
from normbench.training.engine import Trainer
from normbench.training.run import Outcome, execute

# What the tools' own code warns of is theirs.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
TOOLS = []
for tool in READERS:
    is_missing = importlib.util.find_spec(tool) is None
    skip = pytest.mark.skipif(is_missing, reason=f"{tool} is not installed")
    TOOLS.append(pytest.param(tool, marks=skip))

LOGGED = ("epochs=3", "train.log_every=2")


def train(folder: Path, *settings: str, restart: bool = False) -> Outcome:
    return run_in(folder, *LOGGED, *settings, restart=restart)


def record_of(tool: str, run: Path) -> Recorded:
    return READERS[tool](run.parent / tool, run.name)


def kept(run: Path) -> dict[str, Any]:
    """The files of a run that its numbers are in, without the clocks."""
    header, *lines = (run / "metrics.csv").read_text().splitlines()
    figures = []
    for line in lines:
        row = dict(zip(header.split(","), line.split(","), strict=True))
        figures.append(
            {name: row[name] for name in row if "second" not in name and "mib" not in name}
        )
    return {"metrics": figures, "steps": (run / "steps.csv").read_text()}


def interrupt(folder: Path, *settings: str) -> Path:
    """A run that a second Ctrl-C stops in its second epoch: its last steps have no checkpoint."""
    take_step = Trainer.take_step

    def acting(self: Trainer, *arguments: Any) -> Any:
        if self.step == 12:
            raise KeyboardInterrupt
        return take_step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "take_step", acting)
        with pytest.raises(KeyboardInterrupt):
            train(folder, *settings)
    (status,) = folder.glob("*/status.json")
    return status.parent


@pytest.mark.parametrize("tool", TOOLS)
def test_a_record_has_every_row_every_setting_and_the_state(tool: str, tmp_path: Path) -> None:
    # Figures of changed appearance are measured after the last epoch alone.
    run = train(tmp_path, f"system.trackers=[{tool}]", "train.appearance=true").path
    found = record_of(tool, run)
    assert found.points == rows_of(run)
    assert len(found.points["epoch/test_accuracy_hue"]) == 1
    assert found.state == "done"
    config = from_yaml((run / "config.yaml").read_text())
    settings = study_settings(flatten(config.model_dump(mode="json")))
    assert found.settings.keys() == settings.keys()
    assert found.settings["norm.name"] == "bn"
    assert float(found.settings["optim.lr"]) == 0.001


@pytest.mark.parametrize("tool", TOOLS)
def test_a_resumed_run_has_no_point_twice(tool: str, tmp_path: Path) -> None:
    run = interrupt(tmp_path, f"system.trackers=[{tool}]")
    assert record_of(tool, run).state == "interrupted"
    train(tmp_path, f"system.trackers=[{tool}]")
    found = record_of(tool, run)
    assert found.points == rows_of(run)
    assert found.state == "done"


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tracker_that_comes_later_is_told_the_rows_before(tool: str, tmp_path: Path) -> None:
    interrupt(tmp_path)
    run = train(tmp_path, f"system.trackers=[{tool}]").path
    assert record_of(tool, run).points == rows_of(run)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_run_trained_anew_replaces_its_record(tool: str, tmp_path: Path) -> None:
    train(tmp_path, f"system.trackers=[{tool}]")
    run = train(tmp_path, f"system.trackers=[{tool}]", restart=True).path
    assert record_of(tool, run).points == rows_of(run)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_diverged_run_is_recorded_as_such(tool: str, tmp_path: Path) -> None:
    outcome = train(tmp_path, f"system.trackers=[{tool}]", "optim.lr=1e30")
    assert outcome.state == "diverged"
    assert record_of(tool, outcome.path).state == "diverged"


@pytest.mark.parametrize("tool", TOOLS)
def test_an_export_is_the_record_that_following_would_have_made(
    tool: str, tmp_path: Path, normbench: Callable[..., tuple[int, str, str]]
) -> None:
    run = train(tmp_path / "runs", f"system.trackers=[{tool}]").path
    folder = tmp_path / "records" / tool
    # Twice: an export replaces what is there.
    for _ in range(2):
        told = normbench("export", str(run.parent), "--to", tool, str(folder))
        assert told == (0, f"1 run written to {folder}\n", "")
    assert READERS[tool](folder, run.name) == record_of(tool, run)


@pytest.mark.parametrize("tool", TOOLS)
def test_trackers_change_neither_the_id_nor_a_number(tool: str, tmp_path: Path) -> None:
    alone = train(tmp_path / "alone").path
    followed = train(tmp_path / "followed", f"system.trackers=[{tool}]").path
    assert followed.name == alone.name
    assert kept(followed) == kept(alone)


@pytest.mark.parametrize("where", ["open", "log", "end"])
def test_a_tracker_that_fails_is_one_warning_and_the_run_goes_on_to_the_same_numbers(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = train(tmp_path / "alone").path
    with failing(where) as told:
        outcome = train(tmp_path / "followed", "system.trackers=[failing]")
    assert outcome.state == "done"
    assert kept(outcome.path) == kept(alone)
    # Nothing is told after the failure.
    methods = [call.partition(" ")[0] for call in told]
    assert (methods[-1], methods.count(where)) == (where, 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: tracker failing failed and follows the run no more")
    assert "(OSError: the disk of the tracker)" in line


def test_rows_are_told_in_the_order_of_training_then_and_later(tmp_path: Path) -> None:
    with failing("none") as told:
        run = train(tmp_path, "system.trackers=[failing]").path
    later: list[str] = []
    tell_rows(Failing("none", later), read_run(run).metrics, read_steps(run) or {})
    assert told == ["open", *later, "end"]
    assert later.index("log epoch 1") < later.index("log step 7") < later.index("log epoch 2")


def test_a_tracker_whose_package_is_missing_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normbench: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    told = "normbench: tracker mlflow needs mlflow: pip install 'normbench[mlflow]'\n"
    settings = tiny("system.trackers=[mlflow]", "system.runs_dir=runs")
    assert normbench("train", *settings) == (2, "", told)
    assert normbench("export", "nowhere", "--to", "mlflow", "records") == (2, "", told)
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_the_package_s_name_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no_such_tool").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NormbenchError, match="tracker no_such_tool needs no_such_tool"):
        require_package("no_such_tool")


@pytest.mark.parametrize("tool", TOOLS)
def test_an_epoch_may_have_thousands_of_logged_steps(tool: str, tmp_path: Path) -> None:
    tracker = trackers.build(tool)(tmp_path / tool, subject_of("long", {}, {}), True)
    steps = np.arange(2100)
    columns = {"step": steps, "epoch": np.ones_like(steps), "loss": steps / 8}
    tell_rows(tracker, {"epoch": np.array([1]), "test_loss": np.array([0.5])}, columns)
    tracker.end("done", None, None)
    found = READERS[tool](tmp_path / tool, "long").points["step/loss"]
    assert found == [(step, step / 8) for step in range(2100)]


@pytest.mark.parametrize("tool", [param for param in TOOLS if "mlflow" in param.values])
def test_the_user_s_own_server_of_mlflow_has_the_record(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "server"
    server.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{server / 'mlflow.db'}")
    run = train(tmp_path / "runs", f"system.trackers=[{tool}]").path
    assert READERS[tool](server, run.name).points == rows_of(run)
    assert not (run.parent / tool).exists()


def test_an_unknown_tracker_is_told_the_nearest_name() -> None:
    with pytest.raises(NormbenchError, match="'tensorbord': did you mean 'tensorboard'"):
        execute(compose(tiny("system.trackers=tensorbord")))


def test_a_name_alone_stands_for_a_list_of_it() -> None:
    one, listed = (compose(tiny(f"system.trackers={value}")) for value in ("wandb", "[wandb]"))
    assert one == listed


def test_where_no_run_has_ended_nothing_is_exported(
    tmp_path: Path, normbench: Callable[..., tuple[int, str, str]]
) -> None:
    run = interrupt(tmp_path / "runs")
    (run / "status.json").unlink()
    (run / "metrics.csv").unlink(missing_ok=True)
    code, _, errors = normbench("export", "runs", "--to", "tensorboard", "records")
    assert (code, errors.count("\n")) == (2, 1)
    assert not (tmp_path / "records").exists()


def test_an_export_into_the_folder_of_the_runs_is_refused(
    tmp_path: Path, normbench: Callable[..., tuple[int, str, str]]
) -> None:
    run = train(tmp_path / "runs").path
    before = sorted(run.iterdir())
    code, _, errors = normbench("export", "runs", "--to", "tensorboard", "runs")
    assert (code, errors.count("\n")) == (2, 1)
    assert "is the folder of the runs themselves" in errors
    assert sorted(run.iterdir()) == before


def test_a_file_is_no_place_for_records(
    tmp_path: Path, normbench: Callable[..., tuple[int, str, str]]
) -> None:
    train(tmp_path / "runs")
    (tmp_path / "file").write_text("mine")
    code, _, errors = normbench("export", "runs", "--to", "tensorboard", "file/records")
    assert (code, errors) == (2, "normbench: 'file' is not a folder\n")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
def test_of_several_processes_the_main_one_tells(tmp_path: Path) -> None:
    settings = [*tiny(*LOGGED, "system.trackers=tensorboard"), "--processes", "2"]
    command = [sys.executable, "-m", "normbench", "train", *settings, "--runs-dir", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    (run,) = (path.parent for path in tmp_path.glob("*/status.json"))
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    assert len([*(tmp_path / "tensorboard" / run.name).iterdir()]) == 1
    assert record_of("tensorboard", run).points == rows_of(run)
