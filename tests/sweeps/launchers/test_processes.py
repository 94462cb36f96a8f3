"""Runs in processes of their own: the contract, time limits, and how the machine is shared out."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest
from contract import (
    OwnProcessContract,
    assert_as_executed_alone,
    environment,
    launched,
    never,
    planned,
    reason,
    states,
    until,
)
from misbehaviour import Crashing, Held, Starting, Telling, noted

from normbench.config.compose import compose
from normbench.config.schema import RunConfig
from normbench.runs.rundir import is_held
from normbench.sweeps.launchers import Launcher, child, launchers, processes
from normbench.sweeps.launchers.launcher import Work, share, train

pytestmark = pytest.mark.timeout(600)


def built(work: Work = train, *, restart: bool = False, **options: object) -> Launcher:
    return launchers.build("processes", restart, work, options=options)


class TestProcesses(OwnProcessContract):
    def build(self, work: Work = train, *, restart: bool = False) -> Launcher:
        return built(work, restart=restart, jobs=2)


class Clock:
    """The launcher's clock, which a test moves on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(child, "time", clock)
    return clock


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_over_its_time_is_failed_with_the_limit_and_goes_on_without_one(
    tmp_path: Path, clock: Clock
) -> None:
    configs = planned(tmp_path / "runs", seed="0")

    def time_passes() -> bool:
        clock.ahead = 1000.0 if noted(tmp_path, "held") else 0.0
        return False

    launched(built(Held(str(tmp_path), after_steps=9), timeout=900.5), configs, time_passes)
    assert states(configs) == ["failed"]
    assert reason(configs[0]) == "over the time limit of 900.5 s"
    assert (configs[0].run_path / "checkpoint.pt").exists()
    launched(built(), configs)
    assert len(environment(configs[0])["resumed"]) == 1
    assert_as_executed_alone(configs, tmp_path / "alone")


def test_the_time_limit_is_each_runs_own(tmp_path: Path, clock: Clock) -> None:
    configs = planned(tmp_path / "runs", epochs="1")
    events = []
    for event in built(timeout=900, jobs=1).launch(configs, never):
        events.append(event)
        clock.ahead += 500.0 if event.kind == "ended" else 0.0
    assert states(configs) == ["done"] * 3


def test_work_that_ignores_sigterm_is_killed_after_its_grace_and_so_is_what_it_started(
    tmp_path: Path, clock: Clock
) -> None:
    configs = planned(tmp_path / "runs", seed="0")
    asked: list[float] = []

    def time_passes() -> bool:
        if noted(tmp_path, "starting"):
            asked.append(clock.ahead)
            clock.ahead = 1000.0 + (len(asked) > 10) * (child.GRACE_SECONDS + 1)
        return False

    launched(built(Starting(str(tmp_path), deaf=True), timeout=900), configs, time_passes)
    assert len(asked) > 10  # it has outlived its limit, by less than its grace
    assert states(configs) == ["failed"]
    assert reason(configs[0]) == "over the time limit of 900 s"
    (grandchild,) = noted(tmp_path, "grandchildren")
    until(lambda: not is_alive(int(grandchild)))


def test_a_run_that_ignores_a_stop_is_killed_but_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "GRACE_SECONDS", 0.5)
    configs = planned(tmp_path / "runs", seed="0")
    launched(
        built(Starting(str(tmp_path), deaf=True)),
        configs,
        lambda: bool(noted(tmp_path, "starting")),
    )
    assert states(configs)[0] in ("new", "interrupted", "killed")


def test_a_run_asked_to_stop_that_takes_longer_than_its_limit_has_not_failed(
    tmp_path: Path, clock: Clock
) -> None:
    configs = planned(tmp_path / "runs", seed="0")

    def stop() -> bool:
        clock.ahead = 1000.0 if noted(tmp_path, "held") else 0.0
        return clock.ahead > 0

    launched(built(Held(str(tmp_path), after_steps=9), timeout=900), configs, stop)
    assert states(configs) == ["interrupted"]


def test_events_that_are_closed_kill_the_runs_which_then_go_on(tmp_path: Path) -> None:
    configs = planned(tmp_path / "runs", seed="0,1")
    events = built(Held(str(tmp_path), after_steps=9), jobs=2).launch(configs, never)
    assert [next(events).kind, next(events).kind] == ["started", "started"]
    until(lambda: len(noted(tmp_path, "held")) == 2)
    events.close()
    until(lambda: not any(is_held(config.run_path) for config in configs))
    assert states(configs) == ["killed", "killed"]
    launched(built(jobs=2), configs)
    assert_as_executed_alone(configs, tmp_path / "alone")


# Cores


def test_threads_are_divided_among_the_jobs_which_say_that_they_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "num_cores", lambda: 7)
    configs = planned(tmp_path / "runs", threads=None, seed="0,1", epochs="1")
    launched(built(jobs=2), configs)
    for found in map(environment, configs):
        assert (found["concurrent_runs"], found["hardware"]["threads"]) == (2, 3)


def test_more_jobs_than_cores_have_a_thread_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "num_cores", lambda: 2)
    configs = planned(tmp_path, threads=None, seed="0", epochs="1")
    launched(built(jobs=5), configs)
    assert environment(configs[0])["hardware"]["threads"] == 1


def test_one_job_has_the_machine_to_itself_and_says_so(tmp_path: Path) -> None:
    configs = planned(tmp_path / "runs", threads=None, seed="0", epochs="1")
    assert share(configs[0], 1, None).system.threads is None
    launched(built(jobs=1), configs)
    assert environment(configs[0])["concurrent_runs"] == 1


def test_threads_that_were_asked_for_are_kept(tmp_path: Path) -> None:
    configs = planned(tmp_path / "runs", threads=2, seed="0,1", epochs="1")
    launched(built(jobs=2), configs)
    assert [environment(config)["hardware"]["threads"] for config in configs] == [2, 2]


def test_a_run_that_goes_on_alone_has_the_threads_that_it_had_among_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "num_cores", lambda: 6)
    configs = planned(tmp_path / "runs", threads=None, seed="0,1")
    launched(built(Crashing("is killed", after_steps=9), jobs=3), configs)
    assert states(configs) == ["done", "failed"]
    launched(built(jobs=3), configs[1:])
    first, second = (environment(config)["hardware"]["threads"] for config in configs)
    (resumed,) = environment(configs[1])["resumed"]
    assert first == second == resumed["hardware"]["threads"]


def test_a_run_said_to_share_the_machine_with_others_says_it_still(tmp_path: Path) -> None:
    (config,) = planned(tmp_path, seed="0")
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
    configs = planned(tmp_path, seed="0") * 20
    assert built().at_once(configs) == jobs
    assert built(jobs=3).at_once(configs) == 3
    assert built(jobs=3).at_once(configs[:2]) == 2
    assert built().at_once([]) == 1


# GPUs


def on_gpu(folder: Path, count: int) -> list[RunConfig]:
    fixed = ["data=synthetic", "runtime.device=cuda"]
    return [
        compose([*fixed, f"seed={seed}"], {"system.runs_dir": str(folder / "runs")})
        for seed in range(count)
    ]


@pytest.mark.parametrize("runs_per_gpu", [1, 2])
@pytest.mark.parametrize(
    ("visible", "names"),
    [(None, ["0", "1"]), ("3,GPU-5f", ["3", "GPU-5f"]), (" 4 , 2,", ["4", "2"])],
)
def test_runs_are_pinned_to_the_gpus_that_this_process_sees(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    names: list[str],
    runs_per_gpu: int,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(processes, "num_gpus", lambda: 2)
    configs = on_gpu(tmp_path, 8)
    launcher = built(Telling(str(tmp_path), "CUDA_VISIBLE_DEVICES"), runs_per_gpu=runs_per_gpu)
    assert launcher.at_once(configs) == 2 * runs_per_gpu
    launched(launcher, configs)
    assert states(configs) == ["done"] * 8
    told = [line.split("|") for line in noted(tmp_path, "told")]
    assert {name for name, *_ in told} == set(names)
    for name in names:
        spans = [(float(start), float(end)) for gpu, _, start, end in told if gpu == name]
        assert max(sum(a <= start < b for a, b in spans) for start, _ in spans) <= runs_per_gpu


def test_places_on_gpus_go_round_so_that_few_runs_have_a_gpu_each() -> None:
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in processes.gpu_slots(3, 2)] == [
        "0",
        "1",
        "2",
        "0",
        "1",
        "2",
    ]


def test_runs_on_the_cpu_are_pinned_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    launched(
        built(Telling(str(tmp_path), "CUDA_VISIBLE_DEVICES")), planned(tmp_path / "runs", seed="0")
    )
    assert noted(tmp_path, "told")[0].split("|")[0] == "5,6"


# The server that processes are forked from outlives a launch


def test_a_process_has_the_environment_and_the_folder_of_its_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = planned(tmp_path / "runs")
    work = Telling(str(tmp_path), "NORMBENCH_TEST_WORD")
    for config, word in zip(configs, ("one", "two", None), strict=True):
        folder = tmp_path / str(word)
        folder.mkdir()
        monkeypatch.chdir(folder)
        if word is None:
            monkeypatch.delenv("NORMBENCH_TEST_WORD")
        else:
            monkeypatch.setenv("NORMBENCH_TEST_WORD", word)
        launched(built(work), [config])
    told = [line.split("|")[:2] for line in noted(tmp_path, "told")]
    assert told == [[word, str(tmp_path / word)] for word in ("one", "two", "None")]


def test_a_launch_leaves_this_process_as_it_was(tmp_path: Path) -> None:
    before = dict(os.environ), Path.cwd()
    launched(built(jobs=2), planned(tmp_path / "runs", epochs="1"))
    assert (dict(os.environ), Path.cwd()) == before


def test_a_run_is_found_by_a_relative_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    configs = planned(Path("runs"), seed="0", epochs="1")
    launched(built(), configs)
    assert states(configs) == ["done"]
    assert (tmp_path / "runs" / configs[0].run_id / "metrics.csv").exists()
