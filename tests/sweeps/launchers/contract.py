"""What every launcher owes a sweep: subclass it in a test file, say how the launcher is built, and it is tested.

LauncherContract holds for all; OwnProcessContract adds what a run in a process of its own survives.
"""

from __future__ import annotations

import csv
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from misbehaviour import Crashing, Held, Silent, Starting, noted

from normbench.config.schema import RunConfig
from normbench.runs.rundir import is_held, last_output, read_status, run_state
from normbench.sweeps.launchers import Event, Launcher
from normbench.sweeps.launchers.launcher import StopAsked, Work, train
from normbench.sweeps.plan import make_plan
from normbench.sweeps.sweep import Study
from normbench.train.run import execute

MEASURED = {
    "train_seconds",
    "eval_seconds",
    "compile_seconds",
    "images_per_second",
    "peak_memory_mib",
}
TINY = {
    "data": "synthetic",
    "data.num_train": "100",
    "data.num_test": "20",
    "data.augment": "standard",
    "model.widths": "[4,8]",
    "batch_size": "16",
    "epochs": "2",  # of seven steps each
    "train.log_every": "3",
    "seed": "0,1,2",
}
FAST = {"epochs": "1"}


def planned(folder: Path, *, threads: int | None = 1, **overrides: str) -> list[RunConfig]:
    """The runs of a tiny study, three of them unless `overrides` say otherwise; a dot in a name is written __."""
    chosen = TINY | {key.replace("__", "."): value for key, value in overrides.items()}
    study = Study("tiny", ()).with_overrides([f"{key}={value}" for key, value in chosen.items()])
    settings = {"system.runs_dir": str(folder), "system.threads": threads}
    return [run.config for run in make_plan(study, settings).runs]


def never() -> bool:
    return False


def launched(
    launcher: Launcher, configs: Sequence[RunConfig], should_stop: StopAsked = never
) -> list[Event]:
    return list(launcher.launch(configs, should_stop))


def states(configs: Sequence[RunConfig]) -> list[str]:
    return [run_state(config.run_path) for config in configs]


def reason(config: RunConfig) -> str:
    return str(read_status(config.run_path).get("reason"))


def environment(config: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((config.run_path / "env.json").read_text())
    return found


def numbers(path: Path) -> tuple[list[dict[str, str]], str]:
    """What must be equal bit for bit: the rows without their clocks, and the logged steps."""
    with (path / "metrics.csv").open() as file:
        rows = [
            {key: value for key, value in row.items() if key not in MEASURED}
            for row in csv.DictReader(file)
        ]
    return rows, (path / "steps.csv").read_text()


def assert_same_numbers(first: Path, second: Path) -> None:
    assert numbers(first) == numbers(second)
    weights, others = (
        torch.load(path / "checkpoint.pt", weights_only=True)["model"] for path in (first, second)
    )
    assert all(torch.equal(weight, others[name]) for name, weight in weights.items())


def assert_as_executed_alone(configs: Sequence[RunConfig], folder: Path) -> None:
    """Each run has the numbers that `execute` gives in this process."""
    for config in configs:
        alone = execute(config.with_system(runs_dir=str(folder), progress="none"))
        assert alone.state == "done"
        assert_same_numbers(config.run_path, alone.path)


def assert_each_started_and_ended_once(
    events: Sequence[Event], configs: Sequence[RunConfig]
) -> None:
    ids = [config.run_id for config in configs]
    for kind in ("started", "ended"):
        assert sorted(event.config.run_id for event in events if event.kind == kind) == sorted(ids)
    order = [(event.config.run_id, event.kind) for event in events]
    assert all(order.index((name, "started")) < order.index((name, "ended")) for name in ids)


def until(condition: Callable[[], object], patience: float = 120.0) -> None:
    """Waits for something to happen."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "this did not happen in time"
        time.sleep(0.02)


class LauncherContract(ABC):
    """Subclasses build their launcher, two runs at a time if it can."""

    @abstractmethod
    def build(self, work: Work = train, *, restart: bool = False) -> Launcher:
        """The launcher under test."""

    def test_every_run_starts_once_then_ends_once_and_its_directory_says_how(
        self, tmp_path: Path
    ) -> None:
        configs = planned(tmp_path / "runs", norm="bn,gn")
        events = launched(self.build(), configs)
        assert_each_started_and_ended_once(events, configs)
        assert states(configs) == ["done"] * 6

    def test_a_run_that_has_ended_is_not_locked_when_its_event_comes(self, tmp_path: Path) -> None:
        configs = planned(tmp_path / "runs", **FAST)
        for event in self.build().launch(configs, never):
            path = event.config.run_path
            assert event.kind == "started" or (
                read_status(path)["state"] == "done" and not is_held(path)
            )

    def test_the_numbers_are_those_of_execute_itself(self, tmp_path: Path) -> None:
        configs = planned(tmp_path / "runs", norm="bn,in")
        launched(self.build(), configs)
        assert_as_executed_alone(configs, tmp_path / "alone")

    def test_launching_what_is_done_trains_nothing(self, tmp_path: Path) -> None:
        configs = planned(tmp_path / "runs", **FAST)
        launched(self.build(), configs)
        kept = ("metrics.csv", "checkpoint.pt", "status.json", "env.json")
        files = [config.run_path / name for config in configs for name in kept]
        before = [file.stat().st_mtime_ns for file in files]
        assert_each_started_and_ended_once(launched(self.build(), configs), configs)
        assert [file.stat().st_mtime_ns for file in files] == before

    def test_restart_trains_again_to_the_same_numbers(self, tmp_path: Path) -> None:
        (config,) = planned(tmp_path / "runs", seed="0")
        launched(self.build(), [config])
        before = (config.run_path / "checkpoint.pt").stat().st_mtime_ns
        launched(self.build(restart=True), [config])
        assert (config.run_path / "checkpoint.pt").stat().st_mtime_ns > before
        assert_as_executed_alone([config], tmp_path / "alone")

    @pytest.mark.parametrize("after_steps", [None, 9])
    @pytest.mark.parametrize(
        ("how", "told"),
        [("raises", "the work is broken"), ("refuses", "the disk is full"), ("exits", "7")],
    )
    def test_work_that_fails_is_a_failed_run_with_its_reason_and_the_others_go_on(
        self, tmp_path: Path, how: str, told: str, after_steps: int | None
    ) -> None:
        configs = planned(tmp_path / "runs")
        events = launched(self.build(Crashing(how, after_steps)), configs)
        assert_each_started_and_ended_once(events, configs)
        assert states(configs) == ["done", "failed", "done"]
        assert told in reason(configs[1])
        assert "\n" not in reason(configs[1])

    def test_work_that_says_nothing_has_failed(self, tmp_path: Path) -> None:
        configs = planned(tmp_path / "runs", seed="0")
        launched(self.build(Silent()), configs)
        assert states(configs) == ["failed"]
        assert (configs[0].run_path / "config.yaml").exists()

    def test_a_failed_run_goes_on_from_its_checkpoint_when_launched_again(
        self, tmp_path: Path
    ) -> None:
        configs = planned(tmp_path / "runs")
        launched(self.build(Crashing("raises", after_steps=9)), configs)
        assert (configs[1].run_path / "checkpoint.pt").exists()
        launched(self.build(), configs[1:2])
        assert states(configs) == ["done"] * 3
        assert len(environment(configs[1])["resumed"]) == 1
        assert_as_executed_alone(configs[1:2], tmp_path / "alone")

    def test_a_retry_that_crashes_before_it_begins_is_failed_for_its_own_reason(
        self, tmp_path: Path
    ) -> None:
        configs = planned(tmp_path / "runs", seed="1")
        launched(self.build(Crashing("raises", after_steps=3)), configs)
        assert "the work is broken" in reason(configs[0])
        launched(self.build(Crashing("refuses")), configs)
        assert states(configs) == ["failed"]
        assert "the disk is full" in reason(configs[0])

    def test_a_loss_that_is_not_finite_is_a_diverged_run_and_the_others_go_on(
        self, tmp_path: Path
    ) -> None:
        bad = planned(tmp_path / "runs", norm="none", optim__lr="1e30", seed="0")
        good = planned(tmp_path / "runs", seed="0,1")
        launched(self.build(), [*bad, *good])
        assert states([*bad, *good]) == ["diverged", "done", "done"]
        assert "the loss of step" in reason(bad[0])

    def test_asked_to_stop_before_it_begins_it_starts_nothing(self, tmp_path: Path) -> None:
        configs = planned(tmp_path / "runs")
        assert launched(self.build(), configs, lambda: True) == []
        assert states(configs) == ["new"] * 3

    def test_asked_to_stop_it_starts_no_more_and_launching_the_rest_completes_the_same_numbers(
        self, tmp_path: Path
    ) -> None:
        configs = planned(tmp_path / "runs", seed="range(0,5)")
        events = launched(self.build(), configs, lambda: "done" in states(configs))
        assert_each_started_and_ended_once(
            events, [event.config for event in events if event.kind == "started"]
        )
        assert "new" in states(configs)
        assert set(states(configs)) <= {"done", "interrupted", "new"}
        launched(self.build(), configs)
        assert_as_executed_alone(configs, tmp_path / "alone")


class OwnProcessContract(LauncherContract):
    """For launchers that give each run a process of its own. They are built with places for two runs."""

    @pytest.mark.parametrize("after_steps", [None, 9])
    @pytest.mark.parametrize(
        ("how", "told"),
        [("exits at once", "code 7"), ("is killed", "SIGKILL"), ("segfaults", "SIGSEGV")],
    )
    def test_a_process_that_dies_is_a_failed_run_with_its_reason_and_the_others_go_on(
        self, tmp_path: Path, how: str, told: str, after_steps: int | None
    ) -> None:
        configs = planned(tmp_path / "runs")
        events = launched(self.build(Crashing(how, after_steps)), configs)
        assert_each_started_and_ended_once(events, configs)
        assert states(configs) == ["done", "failed", "done"]
        assert told in reason(configs[1])
        launched(self.build(), configs)
        assert_as_executed_alone(configs, tmp_path / "alone")

    def test_what_a_failed_run_has_printed_is_kept(self, tmp_path: Path) -> None:
        configs = planned(tmp_path / "runs", seed="1", norm="bn,gn")
        launched(self.build(Crashing("exits at once", after_steps=9)), configs[:1])
        launched(self.build(Crashing("raises", after_steps=9)), configs[1:])
        exited, raised = (last_output(config.run_path) for config in configs)
        assert exited[0].startswith("epoch 1/2")
        assert exited[-1] == "last words"
        assert "RuntimeError: the work is broken" in raised
        assert "last words" in reason(configs[0])

    def test_a_run_that_goes_on_adds_to_its_output_and_one_that_begins_anew_does_not(
        self, tmp_path: Path
    ) -> None:
        configs = planned(tmp_path / "runs", seed="1")
        launched(self.build(Crashing("exits at once", after_steps=9)), configs)
        launched(self.build(), configs)
        assert [line[:9] for line in last_output(configs[0].run_path)] == [
            "epoch 1/2",
            "last word",
            "epoch 2/2",
        ]
        launched(self.build(restart=True), configs)
        assert [line[:9] for line in last_output(configs[0].run_path)] == ["epoch 1/2", "epoch 2/2"]

    def test_a_run_that_goes_well_prints_its_epochs_and_no_warning(self, tmp_path: Path) -> None:
        configs = planned(tmp_path / "runs", seed="0")
        launched(self.build(), configs)
        assert [line[:9] for line in last_output(configs[0].run_path)] == ["epoch 1/2", "epoch 2/2"]

    def test_asked_to_stop_the_running_ones_save_and_go_on_to_the_same_bits(
        self, tmp_path: Path
    ) -> None:
        configs = planned(tmp_path / "runs", seed="range(0,4)")
        held = self.build(Held(str(tmp_path), after_steps=9))
        events = launched(held, configs, lambda: len(noted(tmp_path, "held")) == 2)
        assert_each_started_and_ended_once(events, configs[:2])
        assert states(configs) == ["interrupted", "interrupted", "new", "new"]
        assert reason(configs[0]).startswith("stopped after step")
        assert all((config.run_path / "checkpoint.pt").exists() for config in configs[:2])
        launched(self.build(), configs)
        assert [len(environment(config)["resumed"]) for config in configs] == [1, 1, 0, 0]
        assert_as_executed_alone(configs, tmp_path / "alone")

    def test_a_run_stopped_while_it_starts_has_not_failed(self, tmp_path: Path) -> None:
        configs = planned(tmp_path / "runs", seed="0")
        starting = self.build(Starting(str(tmp_path)))
        assert_each_started_and_ended_once(
            launched(starting, configs, lambda: bool(noted(tmp_path, "starting"))), configs
        )
        assert states(configs)[0] in ("new", "interrupted", "killed")
        launched(self.build(), configs)
        assert states(configs) == ["done"]
