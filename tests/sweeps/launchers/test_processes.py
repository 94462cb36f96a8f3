"""Runs in processes of their own: time limits, shares of the machine, and the fork server."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.kills import process
from kit.launchers import (
    Scripted,
    Telling,
    environment,
    launched,
    never,
    noted,
    planned,
    reason,
    states,
    times_resumed,
    until,
)

from normbench.config.compose import compose
from normbench.config.schema import RunConfig
from normbench.runs.state import is_held
from normbench.sweeps.launchers import Launcher, child, launchers, processes
from normbench.sweeps.launchers.launcher import Work, share, train

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("processes")]
CompareAlone = Callable[..., None]


def built(work: Work = train, **options: object) -> Launcher:
    return launchers.build("processes", False, work, options=options)


def holding(folder: Path, *seeds: int) -> Scripted:
    """Work with runs held after nine steps, by seed."""
    return Scripted(str(folder), dict.fromkeys(seeds, ("holds", 9)))


def deaf(folder: Path) -> Scripted:
    """Work without end: starts a process and ignores SIGTERM."""
    return Scripted(str(folder), {0: ("sleeps deaf", None)})


class Clock:
    """The launcher's clock, moved on by a test."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(child, "time", clock)
    return clock


def test_a_run_over_its_time_is_failed_with_the_limit_and_goes_on_without_one(
    tmp_path: Path, clock: Clock, assert_as_alone: CompareAlone
) -> None:
    configs = planned(tmp_path / "runs", "seed=0")

    def time_passes() -> bool:
        clock.ahead = 1000.0 if noted(tmp_path, "held") else 0.0
        return False

    launched(built(holding(tmp_path, 0), timeout=900.5), configs, time_passes)
    assert states(configs) == ["failed"]
    assert reason(configs[0]) == "over the time limit of 900.5 s"
    assert (configs[0].run_path / "checkpoint.pt").exists()
    launched(built(), configs)
    assert times_resumed(configs) == [1]
    assert_as_alone(configs)


def test_the_time_limit_is_each_runs_own(tmp_path: Path, clock: Clock) -> None:
    configs = planned(tmp_path / "runs", "seed=0,1", "epochs=1")
    for event in built(timeout=900, jobs=1).launch(configs, never):
        if event.kind == "ended":
            clock.ahead += 1000.0
    assert states(configs) == ["done"] * 2


def test_work_that_ignores_sigterm_is_killed_after_its_grace_and_so_is_what_it_started(
    tmp_path: Path, clock: Clock
) -> None:
    configs = planned(tmp_path / "runs", "seed=0")
    asked: list[float] = []

    def time_passes() -> bool:
        if noted(tmp_path, "starting"):
            asked.append(clock.ahead)
            clock.ahead = 1000.0 if len(asked) <= 10 else 1001.0 + child.GRACE_SECONDS
        return False

    launched(built(deaf(tmp_path), timeout=900), configs, time_passes)
    assert len(asked) > 10  # outlived the limit, by less than the grace
    assert states(configs) == ["failed"]
    assert reason(configs[0]) == "over the time limit of 900 s"
    (grandchild,) = noted(tmp_path, "grandchildren")
    until(lambda: not process(int(grandchild)))


def test_a_run_that_ignores_a_stop_is_killed_but_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "GRACE_SECONDS", 0.5)
    configs = planned(tmp_path / "runs", "seed=0")
    launched(built(deaf(tmp_path)), configs, lambda: bool(noted(tmp_path, "starting")))
    assert states(configs)[0] in ("new", "interrupted", "killed")


def test_a_run_asked_to_stop_that_takes_longer_than_its_limit_has_not_failed(
    tmp_path: Path, clock: Clock
) -> None:
    configs = planned(tmp_path / "runs", "seed=0")

    def stop() -> bool:
        clock.ahead = 1000.0 if noted(tmp_path, "held") else 0.0
        return clock.ahead > 0

    launched(built(holding(tmp_path, 0), timeout=900), configs, stop)
    assert states(configs) == ["interrupted"]


def test_events_that_are_closed_kill_the_runs_which_then_go_on(
    tmp_path: Path, assert_as_alone: CompareAlone
) -> None:
    configs = planned(tmp_path / "runs", "seed=0,1")
    events = built(holding(tmp_path, 0, 1), jobs=2).launch(configs, never)
    assert [next(events).kind, next(events).kind] == ["started", "started"]
    until(lambda: len(noted(tmp_path, "held")) == 2)
    events.close()
    until(lambda: not any(is_held(config.run_path) for config in configs))
    assert states(configs) == ["killed", "killed"]
    launched(built(jobs=2), configs)
    assert_as_alone(configs)


# Cores


@pytest.mark.parametrize(
    ("cores", "jobs", "asked", "num_runs", "threads"),
    [
        (7, 2, None, 2, 3),
        (2, 5, None, 1, 1),  # more jobs than cores
        (7, 1, None, 1, None),  # the machine to itself
        (7, 2, 2, 2, 2),
        (6, 3, None, 1, 2),  # alone in the end, with the threads of the place
    ],
)
def test_threads_are_divided_among_the_places_unless_they_are_set(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    jobs: int,
    asked: int | None,
    num_runs: int,
    threads: int | None,
) -> None:
    monkeypatch.setattr(processes, "num_cores", lambda: cores)
    configs = planned(tmp_path, f"seed=range(0,{num_runs})", threads=asked)
    silent = Scripted(str(tmp_path), dict.fromkeys(range(num_runs), ("says nothing", None)))
    for event in launched(built(silent, jobs=jobs), configs):
        assert event.config.system.threads == threads
        assert event.config.system.concurrent_runs == num_runs


def test_a_run_has_the_threads_of_its_place_and_says_how_many_runs_there_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "num_cores", lambda: 7)
    configs = planned(tmp_path, "seed=0,1", "epochs=1", threads=None)
    launched(built(jobs=2), configs)
    for found in map(environment, configs):
        assert (found["concurrent_runs"], found["hardware"]["threads"]) == (2, 3)


def test_a_run_said_to_share_the_machine_with_others_says_it_still(tmp_path: Path) -> None:
    (config,) = planned(tmp_path, "seed=0")
    assert share(config.with_system(concurrent_runs=9), 2, 1).system.concurrent_runs == 9


@pytest.mark.parametrize(
    ("cores", "gib", "jobs"),
    [(8, 100.0, 8), (8, 5.0, 2), (8, 0.5, 1), (2, 100.0, 2), (8, math.inf, 8), (50, 200.0, 20)],
)
def test_a_run_per_core_as_far_as_memory_and_runs_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, gib: float, jobs: int
) -> None:
    monkeypatch.setattr(processes, "num_cores", lambda: cores)
    monkeypatch.setattr(processes, "available_memory_gib", lambda: gib)
    configs = planned(tmp_path, "seed=0") * 20
    assert built().at_once(configs) == jobs
    assert built(jobs=3).at_once(configs) == 3
    assert built(jobs=3).at_once(configs[:2]) == 2
    assert built().at_once([]) == 1


# GPUs


def on_gpu(folder: Path, count: int) -> list[RunConfig]:
    settings = {"data": "synthetic", "runtime.device": "cuda", "system.runs_dir": str(folder)}
    return [compose([f"seed={seed}"], settings) for seed in range(count)]


@pytest.mark.parametrize("runs_per_gpu", [1, 2])
def test_runs_are_pinned_to_gpus_and_no_more_than_asked_share_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs_per_gpu: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5f")
    monkeypatch.setattr(processes, "num_gpus", lambda: 2)
    configs = on_gpu(tmp_path / "runs", 5)
    launcher = built(Telling(str(tmp_path), "CUDA_VISIBLE_DEVICES"), runs_per_gpu=runs_per_gpu)
    assert launcher.at_once(configs) == 2 * runs_per_gpu
    launched(launcher, configs)
    assert states(configs) == ["diverged"] * 5
    told = [line.split("|") for line in noted(tmp_path, "told")]
    assert {name for name, *_ in told} == {"3", "GPU-5f"}
    for name in ("3", "GPU-5f"):
        spans = [(float(start), float(end)) for gpu, _, start, end in told if gpu == name]
        for moment, _ in spans:
            assert sum(start <= moment < end for start, end in spans) <= runs_per_gpu


@pytest.mark.parametrize(
    ("visible", "slots"),
    [
        (None, ["0", "1", "2", "0", "1", "2"]),  # round the GPUs: few runs have a GPU each
        ("3,GPU-5f,7", ["3", "GPU-5f", "7", "3", "GPU-5f", "7"]),
        (" 4 , 2,1,", ["4", "2", "1", "4", "2", "1"]),
    ],
)
def test_places_are_on_the_gpus_that_this_process_sees(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, slots: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = processes.gpu_slots(3, 2)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in found] == slots


# The fork server outlives a launch


def test_a_process_has_the_environment_and_the_folder_of_its_launch_which_stay_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Telling(str(tmp_path), "CUDA_VISIBLE_DEVICES")  # runs on the CPU are pinned to nothing
    for word in ("5,6", "two", None):
        folder = tmp_path / str(word)
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if word is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", word)
        configs = planned(Path("runs"))
        before = dict(os.environ)
        launched(built(work), configs)
        assert (dict(os.environ), Path.cwd()) == (before, folder)
        assert (folder / "runs" / configs[0].run_id / "status.json").exists()
    told = [line.split("|")[:2] for line in noted(tmp_path, "told")]
    assert told == [[word, str(tmp_path / word)] for word in ("5,6", "two", "None")]


def test_the_server_imports_the_compiler_only_for_runs_that_compile(tmp_path: Path) -> None:
    plain, compiled = planned(tmp_path, "runtime.compile=false,true")
    assert "torch._dynamo" not in child.preloaded([plain])
    assert "torch._dynamo" in child.preloaded([plain, compiled])
